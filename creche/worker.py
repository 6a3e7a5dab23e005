"""``python -m creche.worker``: the process of one actor. Started by creche, see `process_child`."""

from .supervisors.processes.child import main

if __name__ == "__main__":
    main()
