#!/usr/bin/env bash
# make install, with PREFIX and DESTDIR: the installed program finds its embedded model.
. "$(dirname "$0")/common.bash"
if ldd "$TPRUN" | grep -q libasan; then
	skip install "the sanitized program is not for installing"
	finish
fi

installs() { make -s install BUILD="$(dirname "$TPRUN")" "$@" > "$TEMP/log" 2>&1; }
# speaks BINARY: it writes a story from a folder where nothing else is to be found.
speaks() {
	(cd "$TEMP" && timeout $limit "$1" generate --backend cpu --quiet --prompt "Once upon a time" --max-new-tokens 20) \
		2> "$TEMP/err" | grep -q '^Once upon a time[, ]'
}

check install installs PREFIX="$TEMP/prefix"
check installed-speaks speaks "$TEMP/prefix/bin/tprun"
check install-destdir installs PREFIX=/opt/tprun DESTDIR="$TEMP/stage"
check staged-speaks speaks "$TEMP/stage/opt/tprun/bin/tprun"
finish
