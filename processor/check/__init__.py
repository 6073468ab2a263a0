"""What a deployment must be like: pure functions from facts to findings, a module for each area.

`processor/survey.py` gathers the facts, `processor/cli/check.py` tells the findings.
"""
