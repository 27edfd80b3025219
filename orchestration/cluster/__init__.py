"""Where the actors of a run are placed, and how a run becomes a job of somebody else's cluster.

placement.py    a placement group for each engine and one for the learner; what finds no room joins when nodes come
bundles.py      what an actor reserves, and how many nodes that takes (pure)
loopback.py     before Ray is imported: a Ray of our own listens on this machine only
job.py          a checked plan as a command line; one job for each combination of a sweep
slurm.py        -> sbatch script (node.sh is its body)
ray_job.py      -> a job of a running Ray cluster
kuberay.py      -> a RayJob of Kubernetes
"""
