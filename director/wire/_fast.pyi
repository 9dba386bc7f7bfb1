# The compiled twins have exactly the interface of the plain classes, so those are their types.
from director.core.placement.assign import Assigner as Assigner
from director.core.placement.users import UserTable as UserTable
from director.wire.auth import rewrite as rewrite
