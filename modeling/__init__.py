"""The code that ships to the Hub: configurations, models, processors and the pipeline.

Installed as `hf_ris.modeling`. Every module here needs torch and transformers only and imports its siblings by
`from .name import thing`, so that `save_pretrained` can export it as remote code. This file stays empty: importing
the package must cost nothing.
"""
