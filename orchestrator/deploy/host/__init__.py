"""The program that runs on a host and is the only one to change what the host serves.

Standard library only, Python 3.10 or newer: it is shipped as one zip file (`orchestrator.deploy.zipapp`) and
runs before anything else is installed. Every verb prints one JSON object with ``changed``; a failure prints
``error``, ``message`` and ``fix`` and exits 1. ``--check`` says what would change and changes nothing.

A host has two slots, ``blue`` and ``green``, each with room for a complete stack. A rollout puts the new
content into the slot that does not serve, always, so the way back is never overwritten:

==========================  =============================================================================
``begin``                   opens a transaction and arms the timer that reverts it; an open one of another
                            run is reverted first; nothing to do when the content already serves
``start SLOT``              starts the services and waits until they are ready; in mode ``in_place`` it
                            stops the old slot first, for there is no memory for both
``gated``                   notes that the gate was passed
``switch SLOT``             sends new work to the slot, lets the other one finish what it has
``drain SLOT``              waits until a slot has no requests and no streams left
``commit``                  makes it the known good; stops the old slot, which stays as the way back
``revert``                  back to what served before the run, whatever happened since; may be repeated
``extend``                  the controller still lives: arms the timer anew
``recover``                 for the start of the machine: reverts a transaction that was cut off
==========================  =============================================================================

There is no mode that only loads other models into the running slot: a slot's tritonserver refuses changes to
its repository, because the one in use does not always survive them while requests are under way
(`orchestrator.runtime.command`), and without a second slot there would be nothing to go back to.

Safe against ``kill -9`` at any point: what is about to change is on disk before it changes, files are
replaced whole, and each verb may be run again.
"""
