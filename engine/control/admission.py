"""Admission: what one batch holds from the moment it may be read until it has been consumed.

Covers bringing it back, whole or in part. Who gets one is decided in ``backpressure``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataflare.control.backpressure import BackpressureController
    from dataflare.control.budget import Reservation

__all__ = ["Admission"]


class Admission:
    """Leave for one batch to exist: credits for its records and a reservation for its bytes.

    Call `settle` when the batch has been consumed, or `cancel` when it was never read.
    """

    __slots__ = ("_controller", "asked_rows", "reservation", "rows", "task_id")

    def __init__(
        self, controller: BackpressureController, task_id: str, rows: int, reservation: Reservation | None
    ) -> None:
        self._controller: BackpressureController | None = controller
        self.task_id = task_id
        self.rows = rows
        """Records granted; at most what was asked for."""
        self.asked_rows = rows
        """Records granted at first: what the source may be asked for, while it may have fewer."""
        self.reservation = reservation

    def settle(self, duration_s: float) -> None:
        """Bring credits and bytes back: the records were consumed, which took ``duration_s``. Once."""
        controller, self._controller = self._controller, None
        if controller is not None:
            if self.reservation is not None:
                self.reservation.release()
            controller.report_processing(self.task_id, self.rows, duration_s)

    def cancel(self) -> None:
        """Bring credits and bytes back: the records were never read, and nothing is learned. Once."""
        self.shrink(0)
        self._controller = None
        if self.reservation is not None:
            self.reservation.release()

    def shrink(self, rows: int) -> None:
        """Give back the credits beyond ``rows``: the source had fewer."""
        unused = self.rows - rows
        if self._controller is not None and unused > 0:
            if self.reservation is not None and rows:
                self.reservation.resize(math.ceil(self.reservation.nbytes * (rows / self.rows)))
            self.rows = rows
            self._controller.return_credits(self.task_id, unused)
