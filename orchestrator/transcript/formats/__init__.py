"""Transcripts as text: `dumps` writes every format, `loads` reads those that are data.

| name | suffix | holds | can be read back |
|---|---|---|---|
| json | .json | everything | yes, exactly |
| txt | .txt | a line a segment, for people | no |
| srt, vtt | .srt, .vtt | captions | no |
| rttm | .rttm | turns | yes |
| ctm | .ctm | words, times, confidence | yes |
| stm | .stm | segments with speakers | yes |
| seglst | .seglst.json | segments with speakers (meeteval) | yes |
"""

from orchestrator.transcript.formats.registry import Format, dumps, find, loads, name_of, names, suffix

__all__ = ["Format", "dumps", "find", "loads", "name_of", "names", "suffix"]
