"""The PDF target: the document of the LaTeX target, typeset."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..catalogue import Objective
from ..typeset import HOW_TO_GET_ONE, find_engine, typeset
from .base import GeneratedFile, Product, Settings
from .latex import LatexTarget

if TYPE_CHECKING:
    from ..differentiate import Derivation
    from ..kernel import RowKernel
    from ..verify.report import Report


class PdfTarget(LatexTarget):
    name = "pdf"
    title = "that document as a PDF, typeset by the TeX on the PATH or the pip package's"

    def paths(self, objective: Objective) -> tuple[str, ...]:
        return (*LatexTarget().paths(objective), f"{self.name}/{objective.stem}.pdf")

    def generate(self, derivation: Derivation, kernel: RowKernel, settings: Settings) -> Product:
        """The document and its PDF; the document alone where there is no TeX engine."""
        document = LatexTarget().generate(derivation, kernel, settings)
        command = self.command(document.objective, settings)
        engine = find_engine(settings.engine)
        if engine is None:
            return replace(document, target=self.name, command=command, lacks=HOW_TO_GET_ONE)
        done = typeset(document.files[0].text, engine)
        pdf = GeneratedFile(self.paths(document.objective)[-1], binary=done.pdf)
        return replace(
            document,
            target=self.name,
            command=command,
            settings=replace(settings, engine=engine[0]),
            files=(*document.files, pdf),
            facts={**document.facts, "typeset": done, "engine": engine},
        )

    def verify(self, product: Product, thorough: bool = False) -> Report:
        from ..verify.documents import verify_pdf

        return verify_pdf(product, self.document_again(product), thorough)
