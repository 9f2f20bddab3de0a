"""The secrets that the configuration names: written and forgotten, never read."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from config.secrets import SecretsError, SecretStore, store_path
from web.changing import Changeable, desk_of
from web.errors import ApiError

Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]


class Secret(BaseModel):
    """A secret's name."""

    name: str
    changed_time: datetime
    used: bool = Field(description="whether the configuration names it")


class Secrets(BaseModel):
    """All secrets, by name."""

    secrets: list[Secret]


class Value(BaseModel):
    """What a secret stands for."""

    model_config = ConfigDict(extra="forbid")

    value: SecretStr = Field(min_length=1, max_length=65_536)


def secrets_router(gateway: Changeable) -> APIRouter:
    """Routes to write secrets.

    Args:
        gateway: Whose configuration names them.
    """
    router = APIRouter(prefix="/api/secrets", tags=["secrets"])

    def store() -> SecretStore:
        return SecretStore(store_path(desk_of(gateway).path.absolute().parent))

    @router.get("", responses={409: {"description": "the configuration came from no file"}})
    def listed() -> Secrets:
        """The names, and when each was changed; what they stand for nobody can read."""
        texts = "\n".join(desk_of(gateway).current().files.values())
        return Secrets(
            secrets=[
                Secret(name=name, changed_time=changed, used=f"${{secret:{name}}}" in texts)
                for name, changed in store().listed().items()
            ]
        )

    @router.put("/{name}", status_code=204, responses={409: {"description": "there is no key for the secrets"}})
    def put(name: Name, order: Value) -> None:
        """Store a secret, or another value of one; what uses it takes it when the configuration is applied again."""
        try:
            store().set(name, order.value.get_secret_value())
        except SecretsError as error:
            raise ApiError(409, str(error)) from error

    @router.delete("/{name}", status_code=204, responses={409: {"description": "the configuration names it"}})
    def remove(name: Name) -> None:
        """Forget a secret."""
        found = store()
        if name not in found.listed():
            raise ApiError(404, f"there is no secret `{name}`")
        if any(f"${{secret:{name}}}" in text for text in desk_of(gateway).current().files.values()):
            raise ApiError(409, f"the configuration names the secret `{name}`; change that first")
        found.remove(name)

    return router
