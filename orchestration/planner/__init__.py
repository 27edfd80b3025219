"""The planner: simulates runs that have not been made, with the scheduler that would make them.

    rates (given, or calibrate.py: of a finished run) --> grid.py: what to try --> simulation.py: one run of events
        --> answer.py: hours, utilisation, staleness --> table.py, picture.py

Pure: no Ray, no vLLM, no clock. `temper plan` is its command; docs/scheduler.md says how to read what it prints.
"""
