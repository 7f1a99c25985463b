"""Views of a run. In: the record and its taps. Out: text, HTML, JUnit, Model Explorer files.

A renderer lays out what the record says and computes no number and no verdict of its own.
"""
