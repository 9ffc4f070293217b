#!/bin/bash
# sbatch configs/strategy/slurm.sh -c configs/paper/qwen3_8b.yaml [more overlays and options]
#SBATCH --job-name=aer
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8     # one task per GPU; Lightning starts none itself under srun
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12      # engine, verifier workers and trainer of one GPU
#SBATCH --signal=SIGTERM@120    # two minutes before the limit: the run stops at the end of a step, with a checkpoint
set -euo pipefail
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
export VLLM_CACHE_ROOT=${VLLM_CACHE_ROOT:-${TMPDIR:-/tmp}/vllm-$SLURM_JOB_ID}
# Models and data sets have to be where every node sees them; nothing is downloaded by several nodes at once.
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}
srun --kill-on-bad-exit=1 python -m aer_lightning fit "$@" \
    -c configs/strategy/hsdp.yaml \
    --trainer.num_nodes "$SLURM_NNODES" \
    --trainer.devices "$SLURM_NTASKS_PER_NODE" \
    --trainer.strategy.init_args.replicas "$SLURM_NNODES"
