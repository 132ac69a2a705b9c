/* What operators do: arithmetic on Python's numbers (integers within 64 bits; beyond is an error),
 * + and * of texts and lists, comparisons. */
#include "runtime/text/chat_template_internal.h"

#include <math.h>
#include <string.h>

static const char *spelling(int operator)
{
	static char const single[] = "+\0-\0*\0/\0%\0~\0<\0>";
	if (operator == OPERATOR_POWER)
		return "**";
	if (operator == OPERATOR_FLOOR_DIVIDE)
		return "//";
	for (size_t i = 0; i < sizeof single; i += 2)
		if (single[i] == operator)
			return single + i;
	return "?";
}

int render_sign(struct render *r, bool negate, struct value *value)
{
	int64_t integer;
	if (value->kind == VALUE_UNDEFINED)
		return render_fail_undefined(r, *value);
	if (value_to_integer(*value, &integer)) {
		if (integer == INT64_MIN)
			return render_fail(r, "an integer grows beyond 64 bits");
		*value = value_integer(negate ? -integer : integer);
	} else if (value->kind == VALUE_FLOAT) {
		*value = value_float(negate ? -value->real : value->real);
	} else {
		return render_fail(r, "a value of type '%s' has no sign", value_type(*value));
	}
	return 0;
}

static bool integer_power(int64_t base, int64_t exponent, int64_t *out)
{
	int64_t result = 1;
	for (; exponent > 0; exponent >>= 1) {
		if ((exponent & 1) && __builtin_mul_overflow(result, base, &result))
			return false;
		if (exponent > 1 && __builtin_mul_overflow(base, base, &base))
			return false;
	}
	*out = result;
	return true;
}

/* Integers: division rounds down, and the remainder has the divisor's sign. */
static int calculate_integers(struct render *r, int operator, int64_t a, int64_t b,
			      struct value *out)
{
	int64_t result = 0;
	bool fits = true, down = b != 0 && b != -1 && a % b != 0 && (a % b < 0) != (b < 0);
	if (operator != '+' && operator != '-' && operator != '*' && b == 0)
		return render_fail(r, "division by zero");
	switch (operator) {
	case '+':
		fits = !__builtin_add_overflow(a, b, &result);
		break;
	case '-':
		fits = !__builtin_sub_overflow(a, b, &result);
		break;
	case '*':
		fits = !__builtin_mul_overflow(a, b, &result);
		break;
	case '%':
		result = b == -1 ? 0 : a % b + (down ? b : 0);
		break;
	default: /* by -1 it may not fit */
		fits = b != -1 || !__builtin_sub_overflow(0, a, &result);
		if (b != -1)
			result = a / b - down;
	}
	*out = value_integer(result);
	return fits ? 0 : render_fail(r, "an integer grows beyond 64 bits");
}

static int calculate_floats(struct render *r, int operator, double a, double b, struct value *out)
{
	double result = 0, rest;
	if (b == 0 && (operator == '/' || operator == OPERATOR_FLOOR_DIVIDE || operator == '%'))
		return render_fail(r, "division by zero");
	switch (operator) {
	case '+':
		result = a + b;
		break;
	case '-':
		result = a - b;
		break;
	case '*':
		result = a * b;
		break;
	case '/':
		result = a / b;
		break;
	default:
		/* The remainder has the divisor's sign, and the quotient goes with it. */
		rest = fmod(a, b);
		if (rest != 0 && (rest < 0) != (b < 0)) {
			rest += b;
			result = -1;
		}
		if (rest == 0)
			rest = copysign(0, b);
		if (operator == '%') {
			result = rest;
			break;
		}
		result = (a - fmod(a, b)) / b + result;
		if (result == 0) {
			result = copysign(0, a / b);
		} else {
			double whole = floor(result);
			result = result - whole > 0.5 ? whole + 1 : whole;
		}
	}
	*out = value_float(result);
	return 0;
}

static int power(struct render *r, struct value a, struct value b, struct value *out)
{
	int64_t i, j;
	double x = 0, y = 0;
	if (value_to_integer(a, &i) && value_to_integer(b, &j) && j >= 0) {
		if (!integer_power(i, j, &i))
			return render_fail(r, "an integer grows beyond 64 bits");
		*out = value_integer(i);
		return 0;
	}
	value_to_float(a, &x);
	value_to_float(b, &y);
	if (x == 0 && y < 0)
		return render_fail(r, "division by zero");
	double result = pow(x, y);
	if (!isfinite(result) && isfinite(x) && isfinite(y))
		return render_fail(r, "the power is too large, or no real number");
	*out = value_float(result);
	return 0;
}

static int join_sequences(struct render *r, struct value a, struct value b, struct value *out)
{
	size_t count = a.sequence->count;
	if (value_sequence(r, a.kind, count + b.sequence->count, out))
		return -1;
	if (count)
		memcpy(out->sequence->values, a.sequence->values, count * sizeof *a.sequence->values);
	if (b.sequence->count)
		memcpy(out->sequence->values + count, b.sequence->values,
		       b.sequence->count * sizeof *b.sequence->values);
	return 0;
}

static int repeat(struct render *r, struct value value, int64_t times, struct value *out)
{
	bool string = value.kind == VALUE_STRING;
	size_t length = string ? value.text.length : value.sequence->count;
	size_t mark = r->out.length;
	if (times < 0 || length == 0)
		times = 0;
	if (times && (size_t)times > TEMPLATE_MAX_OUTPUT / length)
		return render_fail(r, "a repeated value grows too large");
	if (!string && value_sequence(r, value.kind, length * (size_t)times, out))
		return -1;
	for (size_t i = 0; i < (size_t)times; i++) {
		if (render_work(r, 16))
			return -1;
		if (!string)
			memcpy(out->sequence->values + i * length, value.sequence->values,
			       length * sizeof *value.sequence->values);
		else if (value_put(r, value))
			return -1;
	}
	return string ? render_cut(r, mark, out) : 0;
}

static bool is_repeatable(struct value value)
{
	return value.kind == VALUE_STRING || value.kind == VALUE_LIST || value.kind == VALUE_TUPLE;
}

static int concatenate(struct render *r, struct value a, struct value b, struct value *out)
{
	size_t mark = r->out.length;
	return value_put(r, a) || value_put(r, b) || render_cut(r, mark, out) ? -1 : 0;
}

int render_binary(struct render *r, int operator, struct value a, struct value b, struct value *out)
{
	int64_t i, j;
	double x, y;
	if (operator == '~')
		return concatenate(r, a, b, out);
	if (a.kind == VALUE_UNDEFINED || b.kind == VALUE_UNDEFINED)
		return render_fail_undefined(r, a.kind == VALUE_UNDEFINED ? a : b);
	if (a.kind == VALUE_STRING && operator == '%')
		return render_fail(r, "formatting of text with %% is not known");
	if ((a.kind == VALUE_STRING && a.safe) || (b.kind == VALUE_STRING && b.safe))
		return render_fail(r, "'%s' of text marked with |safe or |escape is not known",
				   spelling(operator));
	if (value_to_float(a, &x) && value_to_float(b, &y)) {
		if (operator == OPERATOR_POWER)
			return power(r, a, b, out);
		if (operator != '/' && value_to_integer(a, &i) && value_to_integer(b, &j))
			return calculate_integers(r, operator, i, j, out);
		return calculate_floats(r, operator, x, y, out);
	}
	if (operator == '+' && a.kind == b.kind && a.kind == VALUE_STRING)
		return concatenate(r, a, b, out);
	if (operator == '+' && a.kind == b.kind && is_repeatable(a))
		return join_sequences(r, a, b, out);
	if (operator == '*' && is_repeatable(a) && value_to_integer(b, &j))
		return repeat(r, a, j, out);
	if (operator == '*' && is_repeatable(b) && value_to_integer(a, &j))
		return repeat(r, b, j, out);
	return render_fail(r, "'%s' can't join '%s' and '%s'", spelling(operator), value_type(a),
			   value_type(b));
}

int render_compare(struct render *r, int operator, struct value a, struct value b, bool *out)
{
	int order;
	if (operator == OPERATOR_EQUAL || operator == OPERATOR_NOT_EQUAL) {
		if (value_equal(r, a, b, out))
			return -1;
		*out ^= operator == OPERATOR_NOT_EQUAL;
		return 0;
	}
	if (operator == OPERATOR_IN || operator == OPERATOR_NOT_IN) {
		if (value_contains(r, b, a, out))
			return -1;
		*out ^= operator == OPERATOR_NOT_IN;
		return 0;
	}
	if (value_order(r, a, b, &order))
		return -1;
	if (operator == '<' || operator == OPERATOR_AT_MOST)
		*out = order == -1 || (operator == OPERATOR_AT_MOST && order == 0);
	else
		*out = order == 1 || (operator == OPERATOR_AT_LEAST && order == 0);
	return 0;
}
