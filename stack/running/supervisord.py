"""supervisord as the adoptive parent of what its services leave behind: python -m stack.running.supervisord -c FILE

A service that is killed leaves its children to the nearest subreaper. That being supervisord, every process of the
stack stays in one tree, where `down` finds it even if it has overwritten its environment, as vLLM's engine does.
"""

import ctypes

from supervisor.supervisord import main

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    main()
