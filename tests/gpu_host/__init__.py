"""The stack in containers on real GPUs. CI has none: `run.sh` brings an engine, the images and this to a bare host."""
