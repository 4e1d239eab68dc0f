"""Reads traces and says who waited for whom, on what, and what concurrency bought.

It works on files alone, after the fact or beside a running scheduler: the client's ledger, the server's log
of lock waits or the sampler's sightings are joined by backend and time, resolved to the root of each queue,
and summed up.
"""
