#!/usr/bin/env bash
# cluster.sh COMMAND...: runs a command on a Slurm cluster of two nodes, node1 and node2, that exists
# only for as long as the command does; for a look around: sudo tests/slurm/cluster.sh bash
#
# All of it lives in namespaces of its own: of processes, so that everything ends with the command,
# however that ends; of the network, so that there is nothing but a loopback device; of mounts, with
# every file of the cluster in a /run that vanishes. Each node has a host name, a /tmp and a /dev/shm
# of its own, as nodes have: PMIx's folders and Open MPI's segments, whose names hold little more than
# the job's number, would get into each other's way otherwise. The working folder is seen on both
# nodes as /run/work; /run/shared is theirs to write to. A node has four CPUs and four GPUs in
# Slurm's books, whatever the machine has.
#
# Needs root, and Debian's packages of `make slurm-deps`. Ends with the command's status; 77 where
# the cluster cannot be had here, for a reason that it tells.
set -u

unfit() {
	echo "$1"
	exit 77
}

if [ "${TPRUN_CLUSTER-}" != inside ]; then
	[ "$(id -u)" = 0 ] || unfit "needs root"
	for program in munged slurmctld slurmd srun unshare setpriv ip python3; do
		command -v "$program" > /dev/null || PATH=$PATH:/usr/sbin:/sbin
		command -v "$program" > /dev/null || unfit "$program is not there: make slurm-deps"
	done
	# However this script or its child ends, so does the namespace of processes.
	isolate=(setpriv --pdeathsig KILL unshare --net --mount --uts --ipc --pid --fork --kill-child --mount-proc)
	"${isolate[@]}" true 2> /dev/null || unfit "namespaces are not allowed here"
	TPRUN_CLUSTER=inside "${isolate[@]}" bash "$0" "$@" <&0 &
	cluster=$!
	trap 'kill -KILL $cluster' TERM INT HUP
	wait $cluster
	exit
fi
unset TPRUN_CLUSTER
# What Slurm or a launcher around this one says is about another cluster.
unset "${!SLURM_@}" "${!PMI_@}" "${!PMIX_@}" "${!OMPI_COMM_@}"

# ---- a place ------------------------------------------------------------------------------------
ip link set lo up
ip address add 127.0.0.2/8 dev lo # getaddrinfo takes 127.0.0.1 alone for no network
hostname control
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mkdir /run/work /run/shared /run/munge /run/state /run/log
mount --bind "$PWD" /run/work
cat > /run/hosts <<-END
	127.0.0.1 localhost control node1 node2
END
mount --bind /run/hosts /etc/hosts
export SLURM_CONF=/run/slurm.conf
cat > /run/slurm.conf <<-END
	ClusterName=tprun
	SlurmctldHost=control(127.0.0.1)
	SlurmUser=root
	SlurmctldPort=6817
	AuthType=auth/munge
	# Requeued jobs wait for as long as a credential lives.
	AuthInfo=socket=/run/munge/socket,cred_expire=3
	StateSaveLocation=/run/state
	SlurmctldPidFile=/run/slurmctld.pid
	SlurmctldLogFile=/run/log/slurmctld
	SlurmdPidFile=/run/slurmd-%n.pid
	SlurmdLogFile=/run/log/%n
	SlurmdSpoolDir=/run/spool-%n
	SlurmdParameters=config_overrides
	ProctrackType=proctrack/linuxproc
	TaskPlugin=task/none
	JobAcctGatherType=jobacct_gather/none
	MpiDefault=none
	MailProg=/bin/true
	ReturnToService=2
	KillWait=5
	SchedulerType=sched/backfill
	SchedulerParameters=sched_min_interval=10000
	SelectType=select/cons_tres
	SelectTypeParameters=CR_CPU
	GresTypes=gpu
	NodeName=node1 NodeAddr=127.0.0.1 Port=6821 CPUs=4 Gres=gpu:4 State=UNKNOWN
	NodeName=node2 NodeAddr=127.0.0.1 Port=6822 CPUs=4 Gres=gpu:4 State=UNKNOWN
	PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=10 OverSubscribe=NO State=UP
END
echo "CgroupAutomount=no" > /run/cgroup.conf
# Devices that are there on every machine stand for GPUs.
echo "NodeName=node[1-2] Name=gpu File=/dev/tty[0-3]" > /run/gres.conf

# ---- the daemons --------------------------------------------------------------------------------
gone() {
	tail -n 20 /run/log/* /run/munge/log 2> /dev/null
	echo "the cluster does not start: $1"
	exit 1
}

(umask 077; head -c 128 /dev/urandom > /run/munge/key)
munged --force --socket=/run/munge/socket --key-file=/run/munge/key --pid-file=/run/munge/pid \
	--log-file=/run/munge/log --seed-file=/run/munge/seed || gone munged
slurmctld -i || gone slurmctld
for node in node1 node2; do
	unshare --mount --uts bash -c "mount -t tmpfs -o mode=1777 tmpfs /tmp &&
		mount -t tmpfs -o mode=1777 tmpfs /dev/shm && hostname $node &&
		exec slurmd -N $node" || gone "slurmd of $node"
done
for ((tries = 0; ; tries++)); do
	[ "$(sinfo --noheader --states=idle --format=%D 2> /dev/null)" = 2 ] && break
	[ $tries -lt 150 ] || gone "its nodes are not ready: $(sinfo 2>&1)"
	sleep 0.1
done

# ---- the command --------------------------------------------------------------------------------
# The nodes reach each other through the loopback device, which Open MPI leaves out by itself.
export OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_oob_tcp_if_include=lo
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
cd /run/work && "$@"
