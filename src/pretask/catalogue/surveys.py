"""Surveys: studies that train many methods alike."""

from pretask.catalogue.row import Row

ROWS = (
    Row(
        "contrastive-survey",
        "A survey of contrastive learning",
        "image",
        "pretask.studies.surveys.contrastive:SURVEY",
        "A Survey on Contrastive Self-supervised Learning (Jaiswal et al., Technologies 2021)",
        "what each member hides, under one budget",
        "which way to negatives teaches most: end to end, memory bank, momentum encoder, clusters, or none?",
        encoder="none",
        kind="study",
    ),
    Row(
        "know-your-ssl",
        "Know your self-supervised learning",
        "image",
        "pretask.studies.surveys.know_your_ssl:SURVEY",
        "Know Your Self-supervised Learning: A Survey on Image-based Generative and Discriminative Training (Ozbulak "
        "et al., TMLR 2023)",
        "what each member hides, under one budget",
        "discriminative or generative: which is better frozen, which tuned, which without strong augmentation?",
        encoder="none",
        kind="study",
    ),
    Row(
        "ssl-cookbook",
        "A cookbook of self-supervised learning",
        "image",
        "pretask.studies.surveys.cookbook:SURVEY",
        "A Cookbook of Self-Supervised Learning (Balestriero et al., 2023)",
        "what each member hides, under one budget",
        "what do rank, spread and projectors tell without labels, and what collapses without what?",
        encoder="none",
        kind="study",
    ),
    Row(
        "revisiting-ssl",
        "Revisiting self-supervised learning",
        "image",
        "pretask.studies.surveys.revisiting:SURVEY",
        "Revisiting Self-Supervised Visual Representation Learning (Kolesnikov, Zhai, Beyer, CVPR 2019)",
        "which way is up, which copy is whose, where patches belong",
        "which backbone, how wide, and which of its blocks is best for which pretext?",
        encoder="none",
        kind="study",
    ),
)
