"""What transformers renders from chat templates: the expected texts of tprun's interpreter.

    python make_chat_templates.py [--check] [--seed N] [--random COUNT] tests/data/chat-templates.json

Three kinds of cases, each a template with its variables and the text that transformers'
own environment (render_jinja_template) makes of it, or "error" where it fails:

styles      the templates of chat_templates/, written in the manner of published ones, on
            conversations with and without system, tools, calls, results and parts
features    one line each for what templates use of Jinja
random      expressions put together at random from the same vocabulary

With --check nothing is written; it says whether the file is still what transformers gives.
Another seed and a larger count are for a look beyond the kept cases: write them to
tests/data/chat-templates.json below an empty folder and run the test from there.
"""

import argparse
import json
import random
from pathlib import Path

from transformers.utils.chat_template_utils import render_jinja_template

HERE = Path(__file__).parent

TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "What the weather is like.\nNow, or on a day.",
        "parameters": {"type": "object", "required": ["city"], "properties": {
            "city": {"type": "string", "description": "Ort, z. B. \"Köln\" <DE>"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
            "days": {"type": "array", "items": {"type": "integer"}},
            "where": {"type": "object", "properties": {"lat": {"type": "number", "default": 0.5},
                                                       "lon": {"type": ["number", "null"]}}}}}}},
    {"type": "function", "function": {
        "name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}},
]
CALL = {"id": "abc123xyz", "type": "function",
        "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": [1, 2], "exact": 2.5}}}
CALL2 = {"id": "abc123xyy", "type": "function", "function": {"name": "now", "arguments": {}}}

CONVERSATIONS = {
    "one": [{"role": "user", "content": "Hello!"}],
    "system": [{"role": "system", "content": "  Speak like a pirate. \n"},
               {"role": "user", "content": "Who are you?\n"},
               {"role": "assistant", "content": "\nCap'n \"Byte\" <b>ahoy</b> & more 🏴‍☠️  "},
               {"role": "user", "content": "  何ですか？ "}],
    "thinking": [{"role": "user", "content": "2+2?"},
                 {"role": "assistant", "content": "<think>\nEasy.\n</think>\n\nFour."},
                 {"role": "user", "content": "And 3+3?"},
                 {"role": "assistant", "content": "Six.", "reasoning_content": "\nAlso easy.\n"}],
    "call": [{"role": "user", "content": "Weather?"},
             {"role": "assistant", "content": "", "tool_calls": [CALL]},
             {"role": "tool", "content": "{\"sun\": true}", "name": "get_weather", "tool_call_id": "abc123xyz"},
             {"role": "assistant", "content": "Sunny."},
             {"role": "user", "content": "Thanks."}],
    "calls": [{"role": "system", "content": "Be brief."},
              {"role": "user", "content": "Weather and time?"},
              {"role": "assistant", "content": None, "tool_calls": [CALL, CALL2]},
              {"role": "tool", "content": "{}", "tool_call_id": "abc123xyz"},
              {"role": "tool", "content": "12:00", "tool_call_id": "abc123xyy"}],
    "parts": [{"role": "system", "content": [{"type": "text", "text": "Look."}]},
              {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " What is "},
                                           {"type": "text", "text": "this? "}]}],
    "order": [{"role": "assistant", "content": "Me first."}, {"role": "user", "content": "No."}],
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
# For the templates of one line.
MESSAGES = CONVERSATIONS["system"]
VARIABLES = {
    "n": 7, "m": -3, "x": 2.5, "y": 1e-7, "yes": True, "no": False, "nil": None, "empty": "", "none_yet": [],
    "s": "Hello, World", "t": "  padded\t\n", "u": "Grüße, 世界 🌍!", "w": "one two  three", "q": "it's \"so\" <b>&",
    "lines": "a\nb\n\n  c\r\nd\n", "l": [3, 1, 2], "names": ["bob", "Alice", "carol", "alice"],
    "mixed": [1, "a", None, True, 2.5, [1], {"k": "v"}], "d": {"b": 1, "a": "x", "C": None, "items": 5},
    "rows": [{"name": "x", "n": 2, "on": True, "sub": {"v": [1, 2]}}, {"name": "Y", "n": 1, "on": False},
             {"name": "z", "n": 3}],
}

FEATURES = """
{{ n + m }} {{ n - m }} {{ n * m }} {{ n / 2 }} {{ n // m }} {{ n % m }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ -2 ** 2 }} {{ +n }} {{ 2 ** 3 ** 2 }}
{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 // -2 }} {{ -7 % 3 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 7.5 % -2 }} {{ 1_000 + 0.5e1 }} {{ 6 / 3 }}
{{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' == 1 }} {{ [1, 2] == [1.0, 2] }} {{ (1,) == [1] }} {{ {'a': 1} == {'a': 1.0} }} {{ none == nosuch }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 3 > 2 >= 2 != 1 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ (1,) < (1, 0) }} {{ 'Z' < 'a' }} {{ 1 <= 1.5 }}
{{ 'ell' in s }} {{ 'x' not in s }} {{ 3 in l }} {{ 'b' in d }} {{ 9 not in l }} {{ '' in '' }} {{ 1 in nosuch }} {{ 'a' in mixed }} {{ none in mixed }}
{{ yes and no }} {{ 0 or 'x' }} {{ '' or [] or none }} {{ 1 and 2 }} {{ not 1 }} {{ not not 1 }} {{ not 1 == 2 }} {{ no or not nil }}
{{ 'a' if yes else 'b' }} {{ 'a' if no else 'b' }} {{ 'a' if no }}| {{ 1 if no else 2 if no else 3 }} {{ ('a' if no) is defined }}
{{ s ~ n ~ nil ~ nosuch ~ yes ~ x ~ l }} {{ 1 ~ 2 + 3 ~ 4 }} {{ 'a' ~ 'b' * 2 }}
{{ 'ab' * 3 }} {{ 2 * 'ab' }} {{ [1] * 2 }} {{ 'a' * -1 }}| {{ (1, 2) + (3,) }} {{ [1] + [2] }} {{ 'a' 'b' "c" }} {{ true + true }}
{{ 10000000000000000.0 }} {{ 1e15 }} {{ 1e16 }} {{ 1e22 }} {{ 0.1 + 0.2 }} {{ 1e-4 }} {{ 1e-5 }} {{ 123456789.123 }} {{ 1.0 }} {{ -0.0 }} {{ 5e-324 }} {{ 1.7976931348623157e308 }}
{{ true }} {{ True }} {{ false }} {{ False }} {{ none }} {{ None }} {{ [] }} {{ () }} {{ {} }} {{ (1,) }} {{ [none, true, 1.0, 'x'] }}
{{ mixed }} {{ d }} {{ rows }} {{ [q, t, u, '\\x00\\x7f\\u200b\\\\', "'"] }} {{ ['é', '\\u00ad', '\\u3000', '\\U0001F600', '\\ue000'] }}
{{ 'a\\tb\\'c\\"d\\\\e\\x41\\u00e9\\U0001F600\\101\\0z\\qx' }}
{{ s[0] }} {{ s[-1] }} {{ u[8] }} {{ u[-2] }} {{ s[99] }}| {{ l[0] }} {{ l[-1] }} {{ l[5] }}| {{ l[true] }} {{ l['x'] }}| {{ rows[0].name }} {{ rows[0]['sub'].v[1] }} {{ rows.0.name }} {{ l.1 }}
{{ s[1:4] }} {{ s[:-2] }} {{ s[-3:] }} {{ s[::2] }} {{ s[::-1] }} {{ u[2:9] }} {{ u[::-1] }} {{ l[1:] }} {{ l[::-1] }} {{ l[5:] }} {{ l[-2:9] }} {{ l[::-2] }} {{ (1,2,3)[:2] }} {{ s[none:2] }} {{ s[8:2:-2] }}
{{ range(5)[1:3]|list }} {{ range(5)[2] }} {{ range(10, 0, -3)|list }} {{ range(3)|list }} {{ range(2, 5)|length }} {{ range(0)|list }} {{ 3 in range(5) }} {{ range(3)|sum }}
{{ d.b }} {{ d['a'] }} {{ d.C }} {{ d.nosuch }}| {{ d['nosuch'] is defined }} {{ d.items is callable }} {{ d['items'] }} {{ d.get('b') }} {{ d.get('z') }} {{ d.get('z', 4) }}
{{ d.items()|list }} {{ d.keys()|list }} {{ d.values()|list }} {{ d|items|list }} {{ d|list }} {{ d|length }} {{ d.items()|length }} {{ d|dictsort }} {{ d|dictsort(true) }} {{ d|dictsort(reverse=true) }}
{{ {'b': 2, 'a': 1}|dictsort(by='value') }} {{ {'a': 1, 'a': 2} }} {{ {1: 'x', 1.0: 'y'} }} {{ {(1, 2): 3}[(1, 2)] }} {{ {'a': {'b': {'c': 1}}}.a.b.c }}
{{ dict(a=1, b='x') }} {{ dict({'a': 1}, b=2) }} {{ dict([('k', 'v')]) }} {{ dict() }}
{{ "ŉ ǰ ﬃ ﬆ ẗ İ ΑΣ ΑΣ. ΣΑ"|lower }} {{ "ŉ ǰ ﬃ ﬆ ẗ straße"|upper }} {{ "ŉx ǰx ﬃx ﬆx ẗx ßx ǆx ΟΔΟΣ".title() }} {{ "ßx"|title }} {{ "ﬃX"|capitalize }} {{ "ǆX".capitalize() }}
{{ s|upper }} {{ s|lower }} {{ 'hello wORLD-foo (bar)'|title }} {{ 'hELLO wORLD'|capitalize }} {{ u|upper }} {{ nil|upper }} {{ 5|lower }} {{ l|upper }}
{{ t|trim }}| {{ 'xxaxx'|trim('x') }} {{ nosuch|trim }}| {{ 5|trim }} {{ '\\u2003a\\u3000'|trim }}| {{ '\\x1ca\\x1f'|trim }}|
{{ s|length }} {{ u|length }} {{ l|count }} {{ nosuch|length }} {{ ''|length }}
{{ l|join }} {{ l|join(', ') }} {{ mixed|join('|') }} {{ 'abc'|join('-') }} {{ rows|join(',', attribute='name') }} {{ d|join(',') }} {{ nosuch|join(',') }}| {{ l|join(d='+') }}
{{ l|first }} {{ l|last }} {{ s|first }} {{ s|last }} {{ []|first }}| {{ ''|first is defined }} {{ d|first }} {{ d|last }} {{ range(4)|last }}
{{ l|sort }} {{ l|sort(reverse=true) }} {{ names|sort }} {{ names|sort(case_sensitive=true) }} {{ rows|sort(attribute='n')|map(attribute='name')|list }} {{ 'bca'|sort }} {{ names|sort(true)|join(' ') }}
{{ l|reverse|list }} {{ s|reverse }} {{ u|reverse }} {{ l|max }} {{ l|min }} {{ names|max }} {{ names|min }} {{ l|sum }} {{ rows|sum(attribute='n') }} {{ l|sum(start=10) }} {{ rows|max(attribute='n') }} {{ []|max }}|
{{ names|unique|list }} {{ names|unique(true)|list }} {{ [1, 1.0, true, 2]|unique|list }} {{ 'hello'|unique|join }}
{{ rows|selectattr('on')|map(attribute='name')|list }} {{ rows|rejectattr('on')|map(attribute='name')|list }} {{ rows|selectattr('name', 'equalto', 'Y')|list }} {{ rows|selectattr('on', 'defined')|list|length }}
{{ rows|selectattr('n', '>', 1)|map(attribute='n')|list }} {{ rows|rejectattr('n', 'in', [1, 2])|map(attribute='n')|list }} {{ rows|selectattr('sub.v.1', 'eq', 2)|list|length }} {{ rows|selectattr('nosuch')|list }}
{{ l|select('odd')|list }} {{ l|reject('odd')|list }} {{ mixed|select('string')|list }} {{ mixed|select|list }} {{ mixed|reject('none')|list }} {{ l|select('gt', 1)|list }} {{ l|select('divisibleby', 2)|list }}
{{ names|map('upper')|list }} {{ names|map('length')|list }} {{ rows|map(attribute='sub')|list }} {{ rows|map(attribute='on', default='?')|list }} {{ names|map('replace', 'a', 'o')|join(' ') }} {{ rows|map(attribute='sub.v')|list }} {{ nosuch|map('upper')|list }}
{{ nosuch|default('z') }} {{ nosuch|d }}| {{ ''|default('z') }}| {{ ''|default('z', true) }} {{ nil|default('z') }} {{ nil|default('z', boolean=true) }} {{ 0|d('z', true) }} {{ d.q|default(d.b) }}
{{ s|replace('l', 'L') }} {{ s|replace('l', 'L', 1) }} {{ 'aaa'|replace('aa', 'b') }} {{ 'abc'|replace('', '-') }} {{ 5|replace(5, 6) }} {{ 'abc'|replace('', '-', 2) }} {{ u|replace('世', '') }}
{{ '42'|int }} {{ ' 42 '|int }} {{ '4.7'|int }} {{ 'x'|int }} {{ 'x'|int(9) }} {{ 4.9|int }} {{ -4.9|int }} {{ nil|int }} {{ true|int }} {{ '1_000'|int }} {{ '-5'|int }} {{ ''|int }} {{ l|int(8) }} {{ '1e3'|int }}
{{ '4.5'|float }} {{ 'x'|float }} {{ 'x'|float(1.5) }} {{ 3|float }} {{ nil|float }} {{ '1e3'|float }} {{ ' 2 '|float }} {{ 'inf'|float }} {{ '-inf'|float }} {{ 'nan'|float }}
{{ -3|abs }} {{ m|abs }} {{ (-2.5)|abs }} {{ 2.5|round }} {{ 3.5|round }} {{ 2.675|round(2) }} {{ 7|round }} {{ 2.1|round(method='ceil') }} {{ 2.19|round(1, 'floor') }} {{ -1.5|round }} {{ 42.55|round(1) }}
{{ l|string }} {{ nil|string }} {{ 5|string ~ 1 }} {{ s|list }} {{ u|list }} {{ nosuch|list }} {{ d|string|length }} {{ (1, 2)|list }} {{ nosuch|string }}|
{{ q|e }} {{ q|escape }} {{ '<b>'|safe }} {{ l|tojson|safe }} {{ ('<'|safe) ~ '>' }} {{ ('<'|safe)|length }}
{{ l|tojson }} {{ d|tojson }} {{ mixed|tojson }} {{ q|tojson }} {{ u|tojson }} {{ u|tojson(ensure_ascii=true) }} {{ '\\x00\\x1f\\x7f\\b\\f\\n\\r\\t/\\\\'|tojson }} {{ '\\x7f\\u2028'|tojson(true) }} {{ 1.0|tojson }} {{ 1e100|tojson }} {{ (1, 2)|tojson }} {{ 'inf'|float|tojson }}
{{ rows|tojson(indent=2) }} {{ rows|tojson(indent=0) }} {{ []|tojson(indent=2) }} {{ {}|tojson(indent=2) }} {{ {'a': []}|tojson(indent=4) }} {{ {'a': {'b': 1}}|tojson(indent='\\t') }} {{ nil|tojson(indent=none) }}
{{ d|tojson(sort_keys=true) }} {{ d|tojson(separators=(',', ':')) }} {{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }} {{ [1, [2]]|tojson(indent=1, separators=(';', '=')) }}
{{ lines|indent }}| {{ lines|indent(2) }}| {{ lines|indent(2, true) }}| {{ lines|indent(2, blank=true) }}| {{ lines|indent('> ') }}| {{ lines|indent(width=1, first=true, blank=true) }}| {{ ''|indent }}|
{{ t.strip() }}| {{ t.lstrip() }}| {{ t.rstrip() }}| {{ 'xyaxy'.strip('yx') }} {{ 'xyaxy'.lstrip('x') }} {{ 'xyaxy'.rstrip('xy') }} {{ '世a世'.strip('世') }} {{ 'aXa'.strip(none) }}
{{ w.split() }} {{ w.split(' ') }} {{ w.split(' ', 1) }} {{ w.split(none, 1) }} {{ w.split(maxsplit=1) }} {{ 'a,b,c'.split(',')[-1] }} {{ ''.split() }} {{ ''.split(',') }} {{ ' a '.split() }} {{ 'a,b,'.split(',') }} {{ 'aXXbXXc'.split('XX') }}
{{ w.rsplit() }} {{ w.rsplit(' ', 1) }} {{ w.rsplit(none, 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'abc'.rsplit('x', 1) }} {{ ' a b '.rsplit(none, 1) }} {{ ' a b '.split(none, 1) }}
{{ lines.splitlines() }} {{ lines.splitlines(true) }} {{ ''.splitlines() }} {{ 'a\\n'.splitlines() }} {{ 'a\\u2028b\\x0bc'.splitlines() }}
{{ s.startswith('He') }} {{ s.startswith('he') }} {{ s.endswith('ld') }} {{ s.startswith(('x', 'H')) }} {{ s.endswith('') }} {{ s.endswith(()) }} {{ ''.startswith('a') }}
{{ s.replace('l', 'L') }} {{ s.replace('l', 'L', 1) }} {{ s.replace('', '.') }} {{ s.upper() }} {{ s.lower() }} {{ "it's a tEST".title() }} {{ 'aB'.capitalize() }} {{ s.removeprefix('Hello') }} {{ s.removesuffix('x') }}
{{ s.find('o') }} {{ s.find('z') }} {{ u.find('世') }} {{ s.rfind('o') }} {{ s.count('l') }} {{ 'aaa'.count('aa') }} {{ 'abc'.count('') }} {{ u.find('') }} {{ '12'.isdigit() }} {{ ''.isdigit() }} {{ ', '.join(names) }} {{ '-'.join('abc') }} {{ ''.join([]) }}|
{{ n is defined }} {{ nosuch is defined }} {{ nosuch is undefined }} {{ nosuch is not defined }} {{ nil is none }} {{ nil is not none }} {{ d.q is defined }} {{ not nosuch is defined }} {{ n is defined and s is string }}
{{ s is string }} {{ n is number }} {{ x is number }} {{ yes is number }} {{ n is integer }} {{ yes is integer }} {{ x is float }} {{ n is float }} {{ d is mapping }} {{ l is mapping }} {{ yes is boolean }} {{ n is boolean }}
{{ s is iterable }} {{ n is iterable }} {{ d is iterable }} {{ nosuch is iterable }} {{ nil is iterable }} {{ l is sequence }} {{ s is sequence }} {{ d is sequence }} {{ nosuch is sequence }} {{ d.items() is sequence }} {{ d.items() is iterable }} {{ l|map('abs') is iterable }} {{ l|map('abs') is sequence }}
{{ yes is true }} {{ n is true }} {{ no is false }} {{ 0 is false }} {{ n is odd }} {{ n is even }} {{ m is odd }} {{ n is divisibleby 7 }} {{ n is divisibleby(2) }} {{ n is eq 7 }} {{ n is equalto 8 }} {{ n is ne 7 }} {{ n is lt 8 }} {{ n is gt(8) }} {{ n is ge 7 }} {{ n is le 6 }} {{ 3 is in l }} {{ 4 is not in [1, 2] }} {{ 'h' is lower }} {{ 'H' is upper }} {{ '1' is lower }} {{ 'aB' is lower }} {{ range is callable }} {{ s is callable }}
{{ nosuch }}| {{ nosuch ~ 'a' }} {{ nosuch == nosuch2 }} {{ nosuch == none }} {{ not nosuch }} {{ nosuch or 'x' }} {{ nosuch in [1] }} {{ nosuch != 1 }} {{ [nosuch] }} {{ [nosuch]|length }}
{% for i in l %}{{ i }}{% endfor %}|{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {% endfor %}
{% for i in l %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }},{{ loop.previtem is defined }}{{ loop.nextitem is defined }} {% endfor %}{{ loop is defined }}
{% for i in l if i > 1 %}{{ loop.index }}/{{ loop.length }}:{{ i }}{{ '.' if loop.last else ',' }}{% endfor %}|{% for i in l if i > 5 %}x{% else %}none{% endfor %}|{% for i in [] %}x{% else %}empty{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }}{{ ';' if not loop.last }}{% endfor %}|{% for k in d %}{{ k }}{% endfor %}|{% for k, v in d|dictsort %}{{ k }}{% endfor %}|{% for a, (b, c) in [(1, (2, 3))] %}{{ a + b + c }}{% endfor %}|{% for (a, b) in [[1, 2]] %}{{ a }}{{ b }}{% endfor %}
{% for c in 'añ世' %}[{{ c }}]{% endfor %}{% for i in nosuch %}x{% endfor %}{% for i in range(3) %}{% for j in range(i) %}{{ loop.index }}{{ i }}{{ j }} {% endfor %}{{ loop.index }};{% endfor %}
{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}|{% for i in [1] %}{% break %}{% else %}no{% endfor %}|{% for i in l %}{% for j in l %}{% break %}{% endfor %}{{ i }}{% endfor %}
{% set a = 1 %}{% for i in l %}{% set a = a + i %}{{ a }} {% endfor %}{{ a }}|{% set ns = namespace(a=1, b='x') %}{% for i in l %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.c is defined }}{% set ns.c = [] %}{{ ns.c }}
{% if n > 5 %}big{% elif n > 3 %}mid{% else %}small{% endif %}|{% if no %}a{% elif yes %}b{% elif yes %}c{% endif %}|{% if nosuch %}a{% else %}z{% endif %}{% if l and d and not '' %}ok{% endif %}{% if no %}{% set late = 1 %}{% endif %}{{ late is defined }}
{% if yes %}{% set a = 5 %}{% endif %}{{ a }}{% if no %}{% set n = 5 %}{% endif %}{{ n }}{% for i in l %}{% if loop.first %}{% set f = i %}{% endif %}{{ f }}.{% endfor %}{{ f is defined }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (a, b) = (b, a) %}{{ a }}{{ b }}{% set t = 1, %}{{ t }}{% set c = [] %}{{ c }}{% set n = n + 1 %}{{ n }}{% set e = 'a' if no %}{{ e is defined }}
{% set a %}x{{ n }} {% set inner = 1 %}{% endset %}{{ a }}|{{ a|length }}{{ inner is defined }}{% set a | upper | trim %} b {{ n }} {% endset %}{{ a }}|{% filter upper %}x{{ s }}{% endfilter %}{% filter replace('a', 'b')|trim %} aa {% endfilter %}
{% macro m(a, b=2, c=a) %}[{{ a }},{{ b }},{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c=4) }}{{ m(b=1, a=0) }}{{ m() }}{{ m('x')|length }}{{ m(1) ~ m(2) }}{% set f = m %}{{ f(9) }}{{ m is callable }}
{% macro fact(k) %}{{ 1 if k < 2 else k * fact(k - 1)|int }}{% endmacro %}{{ fact(10) }}{% macro outer(v) %}{% macro inner() %}<{{ v }}>{% endmacro %}{{ inner() }}{{ inner() }}{% endmacro %}{{ outer(3) }}{% set g = 1 %}{% macro see() %}{{ g }}{{ n }}{% endmacro %}{% for g in l %}{{ see() }}{% endfor %}{% set g = 2 %}{{ see() }}
{% generation %}a{{ n }}{% set gg = 1 %}{% endgeneration %}{{ gg is defined }}{% with a = 1, b = n %}{{ a }}{{ b }}{% set n = 0 %}{% endwith %}{{ n }}{{ a is defined }}{% with %}{% set z = 1 %}{{ z }}{% endwith %}{{ z is defined }}
{% raw %}{{ x }} {% if %}{# c #}{% endraw %}|{# {{ n }} #}|{#- x -#} |{{ '{{' }}{{ '%}' }}{{ "}}" }}{{ {'a': {'b': 1}}['a'] }}{{ {} }}
a {%- if yes -%} b {%- endif -%} c {{- n -}} d {#- x -#} e {%+ if yes +%} f {% endif %} g {%- raw -%} h {%- endraw -%} i
{%- for i in l -%} {{ i }} {%- if not loop.last %}, {% endif -%} {%- endfor -%} x
{{ l|map('string')|map('upper')|join }} {% set it = l|map('abs') %}{{ it|join }}{{ it|join }}| {{ 'y' if [] |map('abs') else 'n' }} {% set gen = l|select('odd') %}{% for i in gen %}{{ i }}{% endfor %}{% for i in gen %}{{ i }}{% endfor %} {{ l|map('abs')|first }}
{{ messages|length }}{{ messages[-1].role }}{{ messages[0]['content']|trim }}{{ tools }}{{ documents is none }}{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ add_generation_prompt }}
{{ (n) }} {{ ((n, m)) }} {{ (n,)|length }} {{ n, m }} {{ [n, m,] }} {{ {'a': n,}['a'] }} {{ -n|abs }} {{ -(n) }} {{ - n }} {{ n|abs - 1 }} {{ n.real is defined and false }}
{{ s|upper|lower|title|replace(' ', '')|length }} {{ (s ~ n)|upper }} {{ s[0]|lower ~ s[1:] }} {{ d.get('a', '').upper() }} {{ (d.get('zz') or {}).get('k', 'dflt') }} {{ rows[0].sub.v|join }} {{ rows|length - 1 }} {{ rows[rows|length - 1].name }}
{{ 'a\\nb' }} {{ "tab\\there" }} {{ 'quote\\'s' }} {{ "é" }} {{ '\\u4e16' }} {{ 'line\\
cont' }}
{% if messages[0].role == 'system' %}{% set offset = 1 %}{% else %}{% set offset = 0 %}{% endif %}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == offset) %}!{% endif %}{{ m['role'][0] }}{% endfor %}
{% set ns = namespace(found=false) %}{% for m in messages if not ns.found %}{% if m.role == 'user' %}{% set ns.found = true %}{% endif %}{{ m.role }} {% endfor %}{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a + ns.b }}
{{ raise_exception('x') if no else 'fine' }} {{ none|default('x') }} {{ 5 is string }} {{ [1,2,3][1] }} {{ {'x': [1, {'y': 2}]}.x[1].y }} {{ 'abc'[1] }} {{ (1, 2, 3)[-1] }} {{ [[1, 2], [3]]|map('length')|sum }} {{ [[3, 1], [2]]|sum(start=[])|sort }}
{{ nosuch.x }}
{{ nosuch['x'] }}
{{ nosuch() }}
{{ nosuch + 1 }}
{{ nosuch < 1 }}
{{ 'a' + 1 }}
{{ l + (1,) }}
{{ 1 / 0 }}
{{ 1.5 // 0 }}
{{ l|first|length }}
{{ 5|length }}
{{ l < s }}
{{ 1 in s }}
{{ 1 in n }}
{{ {[1]: 2} }}
{{ s.nosuch() }}
{{ l.append(4) }}
{{ d.update({}) }}
{{ nil[1:] }}
{{ -s }}
{{ l|map('upper')|length }}
{{ nosuch|last }}
{{ nosuch|tojson }}
{{ l|map('abs')|tojson }}
{{ n|items|list }}
{{ '-'.join(l) }}
{{ s.split('') }}
{{ s.startswith(1) }}
{{ s.replace('a') }}
{{ none|list }}
{{ l|join(1, 2, 3) }}
{{ raise_exception('stop') }}
{% for a, b in [1] %}{% endfor %}
{% for a, b in [[1, 2, 3]] %}{% endfor %}
{% set a, b = 1 %}
{% set n.x = 1 %}
{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{% endmacro %}{{ m(z=2) }}
{{ range(100001)|length }}
{{ 'x'|round }}
{{ s|abs }}
{{ [1, 'a']|sort }}
{{ [1, 'a']|max }}
{{ [[1]]|unique|list }}
{{ l|selectattr('a.b', 'eq', 1)|list }}
{{ rows|map(attribute='sub.v')|list|length }}
{{ ''.__class__.__mro__ }}
"""

BLOCKS = [
    "{% if yes %}\n  a\n{% endif %}\nb\n", "  {% if yes %}  \n  a\n  {% endif %}  \nb\n\n", "a\n\n", "a\r\nb\rc\r\n", "\n", "",
    "x {% if yes %}\ny{% endif %}\n", "{{ n }}\n{{ n }}\n", "{{ n -}}\n\n {{ n }}", "  {{ n }}\n  {# c #}\n  {{ n }}",
    "\t{%+ if yes %}\n\ta\n\t{%+ endif %}\n", "  {#- c #}\n x", "a  {#- c -#}  b", "{% for i in l %}\n  {{ i }}\n{% endfor %}\n",
    "{% for i in l -%}\n  {{ i }}\n{%- endfor %}\n", "{% set a = 1 %}\n{% set b = 2 -%}\n\n{{ a }}{{ b }}\n",
    "{%- macro m() %}\n  x\n{% endmacro -%}\n\n{{ m() }}", "  {% raw %}\n {{ }} {% endraw %}\n x", "{% raw -%}  \n a {%- endraw %}\nb",
    "{% if yes +%}\n  a\n{% endif +%}\nb", "a \u2003{%- if yes %}\u3000b{% endif -%}\u2003\u00a0c", "  \u2003{% if yes %}b{% endif %}",
    "a\n  {% if yes %}{% if yes %}\n b\n  {% endif %}\n {% endif %}", "{{ 'a\r\nb' }}", "{% set x %}\n a\n{% endset %}\n[{{ x }}]",
    "{% if yes %}a{% endif %}  {% if yes %}b{% endif %}\n  {% if yes %}c{% endif %}", "{{- n }} {%- if yes %} {{ n -}} {% endif %}\n",
    "\n\n{% if yes %}\n\n{% endif %}\n\n", "{#\n multi\n line\n#}\nx", "{% if yes %}\n{{ n }}\n{%- endif %}", "   {%- if yes %} x{% endif %}",
    "{% generation %}\n a \n{% endgeneration %}\nb", "{{ n }}}", "{ {{ n }} }", "a {% if yes -%}\r\n\r\n b {% endif %}",
]


def as_json(value):
    """A value as JSON gives it to tprun; it takes 2.0 for 2, so no such number is used."""
    return json.loads(json.dumps(value))


def render(template, messages, prompt, variables):
    """{"text": ...}, or {"error": ...}."""
    variables = dict(variables)
    try:
        texts, _ = render_jinja_template(
            conversations=[as_json(messages)], chat_template=template, tools=variables.pop("tools", None),
            add_generation_prompt=prompt, **TOKENS, **as_json(variables))
        texts[0].encode()
        return {"text": texts[0]}
    except Exception as error:  # whatever a template can do wrong
        return {"error": f"{type(error).__name__}: {error}"[:200]}


SETTINGS = {
    "plain": {},
    "tools": {"tools": TOOLS},
    "more": {"tools": TOOLS, "enable_thinking": False, "tools_in_user_message": False,
             "builtin_tools": ["now", "code_interpreter"]},
}


def styles(templates):
    for name in templates:
        for conversation, messages in CONVERSATIONS.items():
            for setting, variables in SETTINGS.items():
                yield {"templates": name, "conversations": conversation, "settings": setting,
                       "add_generation_prompt": setting != "tools",
                       **render(templates[name], messages, setting != "tools", variables)}


def lines():
    """The lines of FEATURES; one that ends inside of {{ goes on."""
    text = ""
    for line in FEATURES.strip("\n").split("\n"):
        text += line
        if text.count("{{") <= text.count("}}") or "raw" in text or "'{{'" in text:
            yield text.replace("\\\\", "\\")
            text = ""
        else:
            text += "\n"


def features():
    import re
    for line in list(lines()) + BLOCKS:
        # Every expression of a line alone, so that one failure hides no other, and the whole line.
        parts = re.findall(r"\{\{ .*? \}\}", line) if "{%" not in line and "{#" not in line else []
        for template in [line] + (parts if len(parts) > 1 else []):
            yield {"template": template, "add_generation_prompt": True,
                   **render(template, MESSAGES, True, VARIABLES)}


class Expressions:
    """Random expressions that mostly make sense."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def pick(self, *choices):
        return self.random.choice(choices)

    def number(self, depth):
        if depth <= 0:
            return self.pick("n", "m", "x", "0", "1", "2", "10", "-1", "3.5", "yes", "l[0]", "rows[1].n")
        sub, other = self.number(depth - 1), self.number(depth - 1)
        return self.pick(
            f"({sub} + {other})", f"{sub} - {other}", f"{sub} * {other}", f"({sub} / {other})", f"({sub} // {other})",
            f"({sub} % {other})", f"({sub})|abs", f"({sub})|int", f"({sub})|float", f"({sub})|round(1)",
            f"({self.sequence(depth - 1)})|length", f"({self.text(depth - 1)})|length",
            f"({self.text(depth - 1)}).find({self.text(0)})", f"({self.text(depth - 1)}).count({self.text(0)})",
            f"({self.sequence(0)})|sum", f"-({sub})", f"({sub} if {self.truth(depth - 1)} else {other})")

    def text(self, depth):
        if depth <= 0:
            return self.pick("s", "t", "u", "w", "q", "lines", "empty", "'a'", "'l'", "', '", "'世'", "names[1]", "rows[0].name")
        sub, other = self.text(depth - 1), self.text(depth - 1)
        number = self.random.randint(-4, 6)
        return self.pick(
            f"({sub} + {other})", f"({sub} ~ {self.any(depth - 1)})", f"({sub})|upper", f"({sub})|lower", f"({sub})|title",
            f"({sub})|capitalize", f"({sub})|trim", f"({sub}).strip({self.text(0)})", f"({sub}).rstrip()", f"({sub}).lstrip()",
            f"({sub})|replace({self.text(0)}, {other})", f"({sub}).replace({self.text(0)}, {other}, 2)", f"({sub})[{number}:]",
            f"({sub})[:{number}]", f"({sub})[{number}]", f"({sub})[::-1]", f"({sub}).title()", f"({sub})|reverse",
            f"({self.sequence(depth - 1)})|join({other})", f"({self.any(depth - 1)})|tojson", f"({self.any(depth - 1)})|string",
            f"({sub} if {self.truth(depth - 1)} else {other})", f"({sub})|first", f"({sub})|last", f"({sub})|indent(2)",
            f"({sub}).split({self.text(0)})[0]", f"({sub}) * 2", f"({other})|default({sub})", f"({self.any(depth - 1)})|tojson(indent=2)")

    def sequence(self, depth):
        if depth <= 0:
            return self.pick("l", "names", "mixed", "rows", "none_yet", "[1, 2, 2]", "(1, 'a')", "range(4)|list", "d", "[n, s]")
        sub, number = self.sequence(depth - 1), self.random.randint(-3, 4)
        return self.pick(
            f"({sub})|list", f"({sub})|list|reverse|list", f"({sub})|sort", f"({sub})|unique|list", f"({sub})|select('string')|list",
            f"({sub})|reject('none')|list", f"({sub})|map('string')|list", f"({sub})|map('upper')|list", f"({sub})[{number}:]",
            f"({sub})[:{number}]", f"({sub})[::-1]", f"({sub})|map(attribute='n')|list", f"({sub})|selectattr('on')|list",
            f"({self.text(depth - 1)}).split()", f"({self.text(depth - 1)}).split({self.text(0)})", f"({self.text(depth - 1)})|list",
            f"[{self.any(depth - 1)}, {self.any(depth - 1)}]", f"({self.any(depth - 1)},)", f"({sub} + {self.sequence(depth - 1)})",
            "d|items|list", "d|dictsort", "d.keys()|list", f"({self.text(depth - 1)}).splitlines()", f"({self.text(depth - 1)}).rsplit(none, 1)")

    def truth(self, depth):
        if depth <= 0:
            return self.pick("yes", "no", "(nosuch is defined)", "(d.b is not defined)", "(n is odd)", "(nil is none)", "(s is string)")
        return self.pick(
            f"({self.number(depth - 1)} < {self.number(depth - 1)})", f"({self.any(depth - 1)} == {self.any(depth - 1)})",
            f"({self.text(depth - 1)} in {self.text(depth - 1)})", f"({self.any(depth - 1)} in {self.sequence(depth - 1)})",
            f"not {self.truth(depth - 1)}", f"({self.truth(depth - 1)} and {self.any(depth - 1)})",
            f"({self.any(depth - 1)} or {self.truth(depth - 1)})", f"({self.text(depth - 1)} < {self.text(depth - 1)})",
            f"({self.text(depth - 1)}).startswith({self.text(0)})", f"(({self.any(depth - 1)}) is "
            + self.pick("string", "number", "mapping", "iterable", "sequence", "defined", "none", "true", "float", "integer", "boolean") + ")",
            f"({self.number(0)} <= {self.number(0)} < {self.number(0)})", f"({self.any(depth - 1)} != {self.any(depth - 1)})")

    def any(self, depth):
        kind = self.pick(self.number, self.text, self.sequence, self.truth)
        return self.pick("nil", "d", "nosuch", "{'k': n, 's': l}") if self.random.random() < 0.1 else kind(depth)


def expressions(seed, count):
    made = Expressions(seed)
    while count:
        template = "{{ " + made.any(made.random.randint(1, 4)) + " }}"
        result = render(template, MESSAGES, True, VARIABLES)
        # tprun's integers have 64 bits, its values no address, and a mapping of case gives one
        # character for one; a failing expression is worth keeping once in a while.
        text = result.get("text", "")
        if len(template) > 300 or len(text) > 2000 or "<" in text and " at 0x" in text or "dict_" in text:
            continue
        if "error" in result and made.random.random() < 0.9:
            continue
        count -= 1
        yield {"template": template, "add_generation_prompt": True, **result}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--seed", type=int, default=20240607)
    parser.add_argument("--random", type=int, default=1500)
    parser.add_argument("file", type=Path)
    args = parser.parse_args()

    templates = {path.stem: path.read_text() for path in sorted((HERE / "chat_templates").glob("*.jinja"))}
    parts = {"templates": templates, "conversations": CONVERSATIONS, "settings": SETTINGS, "config": TOKENS, "messages": MESSAGES, "variables": VARIABLES, "styles": list(styles(templates)),
             "features": list(features()), "random": list(expressions(args.seed, args.random))}
    text = json.dumps(parts, ensure_ascii=False, indent=0) + "\n"
    if args.check:
        raise SystemExit(0 if args.file.read_text() == text else f"{args.file} is not what transformers gives")
    args.file.write_text(text)
    for kind in ("styles", "features", "random"):
        failing = sum("error" in case for case in parts[kind])
        print(f"{kind}: {len(parts[kind])} cases, {failing} of them errors")


if __name__ == "__main__":
    main()
