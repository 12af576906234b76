"""`python -m hub_mim` is the `hub-mim` command; `torchrun -m hub_mim` and `accelerate launch -m hub_mim` start it."""

from hub_mim.cli import main

if __name__ == "__main__":
    main()
