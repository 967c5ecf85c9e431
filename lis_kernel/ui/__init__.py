"""What a person sees of a run in a notebook while it goes on, and what stays there of it.

`live.py` shows, `record.py` remembers, `html.py` draws, `widgets.py` holds buttons where a front
end has them. ipywidgets is loaded when a view is made, and not before.
"""

from lis_kernel.ui.frontend import in_notebook
from lis_kernel.ui.live import LiveView, view_for_notebook
from lis_kernel.ui.record import Controls

__all__ = ["Controls", "LiveView", "in_notebook", "view_for_notebook"]
