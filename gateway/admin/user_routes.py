"""The users in the state topic, under a path of our own."""

from fastapi import APIRouter, Request

from gateway.admin import bodies, views
from gateway.admin.services import Services

router = APIRouter(prefix="/causeway/v1/users")


@router.get("")
async def list_users(request: Request, services: Services) -> bodies.UserDataList:
    """The users in the state topic."""
    return views.user_list(str(request.base_url), services.users.users())


@router.post("", status_code=201)
async def create_user(request: Request, services: Services, body: bodies.CreateUserBody) -> bodies.UserData:
    """Adds a user with a password."""
    return views.user(str(request.base_url), await services.users.create(body.name, body.password))


@router.delete("/{name}", status_code=204)
async def delete_user(services: Services, name: str) -> None:
    """Removes a user."""
    await services.users.delete(name)
