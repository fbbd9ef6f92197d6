"""What the kernel of this machine tells and does for us."""
