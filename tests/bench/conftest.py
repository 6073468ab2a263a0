# They run in processes of their own, with their folder on the path; some need packages of a peer's.
collect_ignore = ["ways"]
