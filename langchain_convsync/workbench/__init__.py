"""The workbench: a customer to play, everything that happens visible, faults at a click.

``convsync chat`` and ``convsync dev`` are its two faces. Your bot runs in a process of its own,
which can really be killed; API server, WAHA and store are local, and end with the command. Nothing
else imports it.
"""
