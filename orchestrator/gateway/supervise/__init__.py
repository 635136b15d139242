"""Workers of the gateway under a supervisor, which keeps the ports while workers come and go.

`supervisor` starts workers, exchanges them when the source changes (`watch`) and starts anew those that died.
It loads no server, so an error in one cannot end it. `worker` is the process that serves, and `orders` what
goes over the pipes between them.
"""
