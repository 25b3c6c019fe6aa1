"""Three commands in one file, two of which the event catalogue does not know."""

from ..command_registry import CommandHandler, command_handler


@command_handler("GET_COMPOSITIONS")
class GetCompositions(CommandHandler):
    """Lists the compositions, "all" of them; see `compose` and C:\\temp */ too."""

    async def handle(self, parameters, writer, full_command):
        return {"compositions": self.names(parameters["category"])}


@command_handler('COMPOSE_PROMPT')
class ComposePrompt(CommandHandler):
    async def handle(self, parameters, writer, full_command):
        return {"prompt": self.compose(parameters.get('composition'), parameters.get('variables'))}


@command_handler("HEALTH_CHECK")
class HealthCheck(CommandHandler):
    async def handle(self, parameters, writer, full_command):
        return {"status": "healthy"}
