"""The engine in a simulator: one thread, virtual time, and a kill switch between any two steps.

``run`` and ``arun`` perform the engine's flows; here a third driver does. It stands in for the
machine (``langchain_convsync._platform``): whatever asks for the time, for chance, for a thread, or
for a step to be performed, asks the simulation. So production code runs as it is, and each of its
steps is a point at which its process may die, pause, or let another one go first.
"""
