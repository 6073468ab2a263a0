"""`processor demo`: the whole way on real servers, with a worker killed, and a check of the end."""
