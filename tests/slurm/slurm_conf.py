"""The configuration of a Slurm cluster for tests, and the tools that it needs."""

import os
import shutil
import subprocess

TOOLS = ("slurmctld", "slurmd", "sbatch", "munged")
INSTALL = "apt-get install -y --no-install-recommends slurm-wlm munge"

# Shorter times than in production, as tests wait for them. Only cores are shared out. No cgroups.
# But ranks end a step and save within KillWait, also on a busy machine. And processes that a test
# stops for a minute would let Slurm drain their node, until an administrator resumes it, and jobs
# wait: UnkillableStepTimeout is above that.
CONFIGURATION = """
ClusterName=ablations
SlurmctldHost={host}({address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld
SlurmdLogFile={folder}/log/slurmd.%n
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/log/ended
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_min_interval=100000,batch_sched_delay=1
MaxArraySize={max_array}
MaxJobCount=20000
MinJobAge=300
ReturnToService=2
SlurmdTimeout=10
SlurmctldTimeout=10
KillWait=30
UnkillableStepTimeout=300
InactiveLimit=0
Waittime=0
MessageTimeout=10
TreeWidth=16
"""
PARTITIONS = """
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP OverSubscribe=NO PriorityTier=10
"""


def missing(apart: bool = False) -> str | None:
    """Return why no cluster can be started here; None if one can."""
    for tool in TOOLS:
        if shutil.which(tool, path=search_path()) is None:
            return f"no {tool}: {INSTALL}"
    if os.getuid() != 0:
        return "Slurm's daemons need root"
    if apart:
        if shutil.which("ip", path=search_path()) is None:
            return "no ip: apt-get install -y iproute2"
        probe = ["unshare", "--net", "--uts", "--pid", "--mount", "--fork", "true"]
        if subprocess.run(probe, capture_output=True).returncode:
            return "this machine allows no namespaces"
    return None


def search_path() -> str:
    """Return the PATH with the folders of daemons."""
    return f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"
