"""Real servers on this machine, as plain child processes: for the demo and for the tests alike.

Read `process` first (how any server is started, watched and stopped), then one file a server: `embedded_broker`,
`apache_kafka`, `valkey`. `python -m deploy.local up` runs a broker and a cache in the foreground.
"""
