"""What the surfaces share: identity, translation to and from LangChain, prompts, extraction."""
