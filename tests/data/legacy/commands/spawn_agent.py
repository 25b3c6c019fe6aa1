"""The command SPAWN_AGENT, in the older daemon's form."""

from ..command_registry import CommandHandler, command_handler


@command_handler("SPAWN_AGENT")
class SpawnAgentHandler(CommandHandler):
    """Starts an agent with a profile and a task."""

    async def handle(self, parameters, writer, full_command):
        params = SpawnAgentParameters(**parameters)
        agent = await self.context.agent_manager.spawn(params.profile_name, params.task, params.context)
        return {"agent_id": agent, "model": parameters.get("model", "default")}
