"""Cells that are not run the first time that they are asked for: they hung or killed a kernel.

A trajectory tags them `skip-execution`. nbclient leaves such cells out; JupyterLab and Notebook 7
do not, but they say which cell a request is of. So *Run All* goes on behind them, and whoever wants
one all the same runs it once more. The host finds their ids in the notebook, `boot.py` calls us.
"""

WHY = {
    "timeout": "it ran out of time",
    "died": "the kernel ended in it",
    "interrupted": "it was interrupted",
}
"""Of a cell's status in the notebook."""
TEXT = (
    "Not run: when this was recorded, {} (tag skip-execution). Run the cell once more to run it.\n"
)


def hold(kernel, held):
    """Have `kernel` hold the cells whose ids `held` maps to their status."""
    run, waiting = kernel.do_execute, dict(held)

    async def do_execute(*, cell_id=None, **request):
        status = waiting.pop(cell_id, None) if isinstance(cell_id, str) else None
        if status is None or request.get("silent"):
            return await run(cell_id=cell_id, **request)
        text = TEXT.format(WHY.get(status, "it did not end by itself"))
        kernel.send_response(kernel.iopub_socket, "stream", {"name": "stdout", "text": text})
        shell = kernel.shell
        count = shell.execution_count
        if request.get("store_history"):  # it takes its number, as it did before
            shell.history_manager.store_inputs(count, request["code"])
            shell.execution_count += 1
        return {"status": "ok", "execution_count": count, "payload": [], "user_expressions": {}}

    kernel.do_execute = do_execute
