"""`headgate doctor`: looks at everything that a deployment rests on, changes nothing, and says what to fix.

finding.py says what a finding is, examination.py runs the checks side by side; the others are the checks by subject.
Each judges by a plain function over what was found.
"""
