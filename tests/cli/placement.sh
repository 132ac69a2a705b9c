#!/usr/bin/env bash
# Threads stay within the cores that were given, whoever gave them, and the map says what is wrong.
. "$(dirname "$0")/common.bash"
needs_stories placement
model=(--backend cpu --model "$STORIES")
limit=$((3 * limit)) # the ranks share a core with whatever else runs on it, each wait for another is a turn

# threads_of PIDS: the sets of CPUs that the threads of these processes may run on, as lists.
threads_of() { for pid in $1; do sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/"$pid"/task/*/status; done | sort -u; }

# watch COMMAND...: starts a batch through the command, whose one line comes when it is ready and its
# threads have been looked at. Leaves its processes in $pids, their number in $count, the sets of their
# threads in $sets and the number of these in $threads.
mkfifo "$TEMP/lines"
watch() {
	rm -f "$TEMP/out.jsonl"
	: > "$TEMP/err" # of the command before: the one below may empty it only after it was looked at
	timeout $limit "$@" "$TPRUN" batch "${model[@]}" --input "$TEMP/lines" --output "$TEMP/out.jsonl" \
		--max-new-tokens 4 --print-placement > "$TEMP/out" 2> "$TEMP/err" &
	local job=$!
	exec 3<> "$TEMP/lines"
	until grep -q "^ready in" "$TEMP/err" || ! kill -0 $job 2> /dev/null; do
		sleep 0.1
	done
	pids=$(descendants $job)
	sets=$(threads_of "$pids")
	threads=$(for pid in $pids; do ls /proc/"$pid"/task; done | wc -l)
	echo '{"id": 1, "prompt": "Once"}' >&3
	exec 3>&-
	wait $job
	status=$?
	count=$(wc -w <<< "$pids")
}

# descendants PID: those of its processes that are tprun.
descendants() {
	local child
	for child in $(pgrep -P "$1"); do
		[ "$(cat /proc/"$child"/comm 2> /dev/null)" = tprun ] && echo "$child"
		descendants "$child"
	done
}

cpus=$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status)
last=${cpus##*[-,]}
if [ "$cpus" = "$last" ]; then
	skip placement "one core alone"
	finish
fi

watch taskset -c "$last"
good "taskset (np 1)"
check "taskset-threads (np 1)" [ "$count $sets" = "1 $last" ]
# mpirun inherits the set and would bind each rank to a core of its own.
for ranks in 1 2 3; do
	watch taskset -c "$last" mpirun --oversubscribe -np $ranks
	good "taskset-mpirun (np $ranks)"
	check "taskset-mpirun-threads (np $ranks)" [ "$count $sets" = "$ranks $last" ]
	check "taskset-mpirun-more-threads-than-ranks (np $ranks)" [ "$threads" -gt "$ranks" ]
done
says shared-cores-warned "share cores while" err
says shared-cores-cure "let tprun bind within all of them" err
watch taskset -c "$last" mpirun --oversubscribe --bind-to none -np 2
check "taskset-bind-to-none-threads" [ "$count $sets" = "2 $last" ]

watch mpirun --oversubscribe -np 2
check own-cores [ "$(grep -c "cores shared" "$TEMP/err")" = 0 ]
check own-cores-no-warning [ "$(grep -c warning "$TEMP/err")" = 0 ]
check map-header grep -qE '^rank +host +pid +cores +NUMA +memory +NIC +GPU$' "$TEMP/err"
check map-pids [ "$(for pid in $pids; do grep -cE "^ +[01] +[^ ]+ +$pid " "$TEMP/err"; done | tr -d '\n')" = 11 ]
run 2 generate "${model[@]}" --prompt a --max-new-tokens 2 --no-bind
good no-bind
says no-bind-map "unbound" err

# A cgroup's cores, where this user may make one.
group=/sys/fs/cgroup/cpuset/tprun-test-$$
if [ -w /sys/fs/cgroup/cpuset ] && mkdir "$group" 2> /dev/null; then
	echo "$last" > "$group/cpuset.cpus" && cat /sys/fs/cgroup/cpuset/cpuset.mems > "$group/cpuset.mems"
	cat > "$TEMP/enter" <<-END
		#!/bin/sh
		echo \$\$ > $group/cgroup.procs && exec "\$@"
	END
	chmod +x "$TEMP/enter"
	watch "$TEMP/enter" mpirun --oversubscribe -np 2
	good cgroup
	check cgroup-threads [ "$count $sets" = "2 $last" ]
	check cgroup-no-warning [ "$(grep -c "share cores while" "$TEMP/err")" = 0 ]
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		rmdir "$group" 2> /dev/null && break
		sleep 0.2
	done
else
	skip cgroup "no cpuset cgroup can be made here"
fi
finish
