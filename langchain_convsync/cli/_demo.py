"""``convsync demo``: the main job, end to end."""

from __future__ import annotations

from langchain_convsync.errors import MissingExtraError


def demo() -> None:
    """Play a WhatsApp conversation through an agent, and show what was synced.

    Runs on its own reference server. Without OPENAI_API_KEY the model is scripted; with it,
    ChatOpenAI answers (OPENAI_BASE_URL and OPENAI_MODEL are honoured).
    """
    try:
        from langchain_convsync.cli._restaurant import play  # LangChain takes a while to import
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("langchain_convsync"):
            raise
        raise MissingExtraError("convsync demo", "cli") from error
    play()
