"""A handler that its file alone names, by a word that is a package elsewhere."""


class LogHandler(CommandHandler):
    async def handle(self, parameters, writer, full_command):
        return {"logged": parameters["line"]}


# For the registry that names handlers by their classes.
class Registered(CommandHandler):
    pass
