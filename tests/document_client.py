# The API document's own Python client, to the letter: its style is not ours to check.
# ruff: noqa: ANN204, D415, I001, UP006, UP035, UP045
# mypy: ignore-errors
# fmt: off
import requests
from typing import Optional, Dict, Any

class ConversationSyncClient:
    def __init__(self, api_base_url: str, api_key: Optional[str] = None):
        self.api_base_url = api_base_url
        self.headers = {
            "Content-Type": "application/json"
        }
        if api_key:
            self.headers["Authorization"] = f"Bearer {api_key}"

    def lookup_tenant(self, phone_number: str) -> Dict[str, Any]:
        """Lookup tenant/subdomain by phone number"""
        response = requests.get(
            f"{self.api_base_url}/api/v1/whatsapp/lookup/tenant/{phone_number}",
            headers=self.headers
        )
        response.raise_for_status()
        return response.json()["data"]

    def get_conversation(self, phone_number: str, bot_id: Optional[str] = None) -> Dict[str, Any]:
        """Get full conversation state"""
        params = {"botId": bot_id} if bot_id else {}
        response = requests.get(
            f"{self.api_base_url}/api/v1/whatsapp/lookup/conversation/{phone_number}",
            params=params,
            headers=self.headers
        )
        response.raise_for_status()
        return response.json()["data"]

    def sync_conversation(
        self,
        session_id: str,
        intent: str,
        step: str,
        context: Dict[str, Any],
        metadata: Optional[Dict[str, Any]] = None,
        is_active: bool = True
    ) -> Dict[str, Any]:
        """Sync conversation state back to API"""
        payload = {
            "intent": intent,
            "step": step,
            "context": context,
            "metadata": metadata or {},
            "isActive": is_active
        }
        response = requests.put(
            f"{self.api_base_url}/api/v1/whatsapp/agent/conversations/{session_id}/sync",
            json=payload,
            headers=self.headers
        )
        response.raise_for_status()
        return response.json()["data"]

    def add_message(self, session_id: str, role: str, content: str) -> Dict[str, Any]:
        """Add message to conversation history"""
        payload = {
            "role": role,  # 'user' or 'bot'
            "content": content
        }
        response = requests.post(
            f"{self.api_base_url}/api/v1/whatsapp/agent/conversations/{session_id}/messages",
            json=payload,
            headers=self.headers
        )
        response.raise_for_status()
        return response.json()["data"]
