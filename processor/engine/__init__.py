"""The story of a job: submitted, consumed, admitted, run, settled, committed. Speaks to ports."""
