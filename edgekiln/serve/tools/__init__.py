"""Tool calls and reasoning in the text of answers: reading them as they are streamed, and grammars that demand them."""
