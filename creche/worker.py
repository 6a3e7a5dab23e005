"""The process of one actor. Started by creche, see `process_child`."""

from .supervisors.processes.child import main as main

if __name__ == "__main__":
    main()
