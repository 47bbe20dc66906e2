"""Random calls of every front-end, without end, against the oracle and every installed framework: `python -m campaign --help`.

Reading order is data flow: case.py is what one call is, draw.py which are made; expected.py and oracle.py say what must come of one,
transforms.py under which transformations, checks.py how exactly; calls.py is how it is called, peers.py what others make of it.
worker.py runs groups of cases in a process of its own, driver.py starts those and survives their deaths, shrink.py makes a failure
small and prints it as code.
"""
