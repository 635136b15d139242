"""What all Whisper engines have in common, whatever computes the network.

`languages` and their codes, `windows` of speech that the network takes, `quality` of what it said, `words`
from its tokens, and `recognizer`, the way from a recording to its words. An engine adds how a window is
decoded.
"""
