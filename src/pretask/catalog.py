"""Every method, one row each. Importing this module imports neither torch nor any method."""

from difflib import get_close_matches
from pathlib import Path
from typing import Literal, NamedTuple

from pretask.errors import UsageError

Modality = Literal[
    "image", "video", "audio", "text", "graph", "points", "volume", "pose", "track", "multimodal", "film", "any"
]


class Row(NamedTuple):
    """A method's entry.

    Args:
        slug: its name on the command line.
        title: the method's name in print.
        modality: what it learns from.
        path: `module:Class` of the task.
        paper: title, authors, venue.
        hides: what is hidden of the data.
        asks: what the network is asked.
        encoder: the default encoder; a vision transformer where the method needs patches.
        needs: `patches` where only a vision transformer fits, `bare` where only one without class token
            does, `crate` a white-box transformer, `hiera` a hierarchical one, `denoiser` a diffusion model's
            network, `dictionary` nothing but that, `any` otherwise.
        labels: whether its loss may read labels; to every other method they are not shown.
        kind: a `task` is trained; a `study` is run (`pretask study`), its path is `module:function`.
    """

    slug: str
    title: str
    modality: Modality
    path: str
    paper: str
    hides: str
    asks: str
    encoder: str = "resnet18"
    needs: Literal["any", "patches", "bare", "crate", "hiera", "denoiser", "dictionary"] = "any"
    labels: bool = False
    kind: Literal["task", "study"] = "task"


VIT = "vit_tiny_patch16_224"
BARE = VIT + ":class_token=false,global_pool=avg,fc_norm=false"
TEXT = "xlm-roberta:num_hidden_layers=4,hidden_size=256,num_attention_heads=4,intermediate_size=1024"
VIDEO_TEXT = (
    "video=space_time_vit:embed_dim=192,depth=6,num_heads=3;text=distilbert:dim=192,n_layers=3,n_heads=3,hidden_dim=768"
)

ROWS: tuple[Row, ...] = (
    Row(
        "rotation",
        "Rotation prediction",
        "image",
        "pretask.methods.image.rotation:Rotation",
        "Unsupervised Representation Learning by Predicting Image Rotations (Gidaris et al., ICLR 2018), "
        "as set up in Revisiting Self-Supervised Visual Representation Learning (Kolesnikov et al., 2019)",
        "which way is up",
        "by which of four right angles was the picture turned?",
    ),
    Row(
        "simclr",
        "SimCLR",
        "image",
        "pretask.methods.image.simclr:SimCLR",
        "A Simple Framework for Contrastive Learning of Visual Representations (Chen et al., ICML 2020)",
        "place, size and colours of a crop",
        "which two of the batch's crops come from one picture?",
    ),
    Row(
        "mae",
        "Masked autoencoder",
        "image",
        "pretask.methods.image.mae:MAE",
        "Masked Autoencoders Are Scalable Vision Learners (He et al., CVPR 2022)",
        "three quarters of the patches",
        "which pixels were in the hidden patches?",
        VIT,
        "patches",
    ),
    Row(
        "colormae",
        "ColorMAE",
        "image",
        "pretask.methods.image.colormae:ColorMAE",
        "ColorMAE: Exploring Data-Independent Masking Strategies in Masked AutoEncoders "
        "(Hinojosa et al., ECCV 2024)",
        "patches in clusters of one size, cut from coloured noise",
        "which pixels were in the hidden patches?",
        encoder=VIT,
        needs="patches",
    ),
    Row(
        "colorization",
        "Colorful image colorization",
        "image",
        "pretask.methods.image.colorization:Colorization",
        "Colorful Image Colorization (Zhang, Isola, Efros, ECCV 2016)",
        "the colour of a picture",
        "which of 261 colours, or what mixture of them, has each place of this grey picture?",
    ),
    Row(
        "dino",
        "DINO",
        "image",
        "pretask.methods.image.dino:DINO",
        "Emerging Properties in Self-Supervised Vision Transformers (Caron et al., ICCV 2021)",
        "all of a picture but a crop",
        "what does a slowly following copy of the network say of another crop?",
        VIT,
    ),
    Row(
        "ibot",
        "iBOT",
        "image",
        "pretask.methods.image.ibot:IBOT",
        "iBOT: Image BERT Pre-Training with Online Tokenizer (Zhou et al., ICLR 2022)",
        "blocks of patches, and all of a picture but a crop",
        "what does a slowly following copy of the network say of the hidden patches and of another crop?",
        VIT,
        "patches",
    ),
    Row(
        "attmask",
        "AttMask",
        "image",
        "pretask.methods.image.attmask:AttMask",
        "What to Hide from Your Students: Attention-Guided Masked Image Modeling "
        "(Kakogeorgiou et al., ECCV 2022)",
        "the patches that a slowly following copy of the network attends to, and all of a picture but a crop",
        "what does the copy say of the hidden patches and of another crop?",
        encoder=VIT,
        needs="patches",
    ),
    Row(
        "crate-mae",
        "CRATE-MAE",
        "image",
        "pretask.methods.image.crate_mae:CrateMAE",
        "Masked Completion via Structured Diffusion with White-Box Transformers (Pai et al., ICLR 2024)",
        "three quarters of the patches",
        "which pixels were in the hidden patches?",
        encoder="vit_crate_tiny_patch16_224",
        needs="crate",
    ),
    Row(
        "mixedae",
        "MixedAE",
        "image",
        "pretask.methods.image.mixedae:MixedAE",
        "Mixed Autoencoder for Self-supervised Visual Representation Learning (Chen et al., CVPR 2023)",
        "three quarters of the patches, under those of three other pictures",
        "which pictures was this one mixed of?",
        encoder=VIT,
        needs="patches",
    ),
    Row(
        "eva",
        "EVA",
        "image",
        "pretask.methods.image.eva:EVA",
        "EVA: Exploring the Limits of Masked Visual Representation Learning at Scale (Fang et al., CVPR 2023)",
        "blocks of patches",
        "what does a frozen network, best one of pictures and words, see there?",
        encoder=VIT,
        needs="patches",
    ),
    Row(
        "hiera",
        "Hiera",
        "image",
        "pretask.methods.image.hiera:Hiera",
        "Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles (Ryali et al., ICML 2023)",
        "most units of 32 pixels, before the first layer",
        "which pixels were in the hidden units?",
        encoder="hiera_tiny_224:q_pool=2",
        needs="hiera",
    ),
    Row(
        "memmc-mae",
        "MemMC-MAE",
        "image",
        "pretask.methods.image.memmc_mae:MemMCMAE",
        "Unsupervised Anomaly Detection in Medical Images with a Memory-augmented Multi-level Cross-attentional "
        "Masked Autoencoder (Tian et al., 2022)",
        "three quarters of the patches of pictures that are all normal",
        "which pixels were in the hidden patches? Where the answer is unlike, something is not normal",
        encoder=VIT,
        needs="patches",
    ),
    Row(
        "gmml",
        "GMML",
        "image",
        "pretask.methods.image.gmml:GMML",
        "GMML is All you Need (Atito, Awais, Kittler, 2022)",
        "groups of connected pixels, under noise or another picture's pixels",
        "what was there?",
        encoder=VIT,
        needs="patches",
    ),
    Row(
        "flexpredict",
        "FlexPredict",
        "image",
        "pretask.methods.image.flexpredict:FlexPredict",
        "Predicting masked tokens in stochastic locations improves masked image modeling (Bar et al., 2023); "
        "Stochastic positional embeddings improve masked image modeling (ICML 2024)",
        "blocks of patches, and where exactly they are",
        "what would a slowly following copy of the network say of them?",
        encoder=BARE,
        needs="bare",
    ),
    Row(
        "selfpatch",
        "SelfPatch",
        "image",
        "pretask.methods.image.selfpatch:SelfPatch",
        "Patch-level Representation Learning for Self-supervised Vision Transformers (Yun et al., CVPR 2022)",
        "a patch from what its neighbours say, and all of a picture but a crop",
        "what do the neighbours most like a patch say together, and what does another crop say?",
        encoder=BARE,
        needs="bare",
    ),
    Row(
        "droppos",
        "DropPos",
        "image",
        "pretask.methods.image.droppos:DropPos",
        "DropPos: Pre-Training Vision Transformers by Reconstructing Dropped Positions "
        "(Wang et al., NeurIPS 2023)",
        "three quarters of the patches, and the places of most of the others",
        "where does each patch belong that lost its place?",
        encoder=VIT,
        needs="patches",
    ),
    Row(
        "mp3",
        "MP3",
        "image",
        "pretask.methods.image.mp3:MP3",
        "Position Prediction as an Effective Pretraining Strategy (Zhai et al., ICML 2022)",
        "the places of all patches, and most patches from each other",
        "where does each patch belong?",
        encoder=BARE,
        needs="bare",
    ),
    Row(
        "pirl",
        "PIRL",
        "image",
        "pretask.methods.image.pirl:PIRL",
        "Self-Supervised Learning of Pretext-Invariant Representations (Misra & van der Maaten, CVPR 2020)",
        "the order of nine patches, or which way is up",
        "which picture of all is it whose patches were shuffled?",
    ),
    Row(
        "mood",
        "MOOD",
        "image",
        "pretask.methods.image.mood:MOOD",
        "Rethinking Out-of-distribution (OOD) Detection: Masked Image Modeling is All You Need "
        "(Li et al., CVPR 2023)",
        "blocks of patches",
        "which word of a frozen codebook stands at each hidden patch?",
        encoder=VIT,
        needs="patches",
    ),
    Row(
        "moodv2",
        "MOODv2",
        "image",
        "pretask.methods.image.moodv2:MOODv2",
        "MOODv2: Masked Image Modeling for Out-of-Distribution Detection (Li et al., TPAMI 2024)",
        "blocks of patches",
        "which word of a frozen codebook stands at each hidden patch?",
        VIT,
        "patches",
    ),
    Row(
        "p2-weighting",
        "P2 weighting",
        "image",
        "pretask.methods.image.p2_weighting:P2Weighting",
        "Perception Prioritized Training of Diffusion Models (Choi et al., CVPR 2022)",
        "a picture, under noise of any strength",
        "which noise is it?",
        "unet",
        "denoiser",
    ),
    Row(
        "lens",
        "LENS around a pretext",
        "image",
        "pretask.methods.image.lens:Lens",
        "Automatic Shortcut Removal for Self-Supervised Representation Learning (Minderer et al., ICML 2020)",
        "whatever makes another pretext easy, edited away by a small network",
        "the other pretext's question about the edited picture",
    ),
    Row(
        "cler",
        "CLER",
        "image",
        "pretask.methods.image.cler:CLER",
        "On the Effectiveness of Equivariant Regularization for Robust Online Continual Learning (Bonicelli et "
        "al., 2023), on ER-ACE (Caccia et al., ICLR 2022)",
        "how four tiles of a picture lay, or which way is up, while its class is learned from a stream",
        "how was the picture shuffled or turned, and of which class is it?",
        labels=True,
    ),
    Row(
        "ssdl",
        "SSDL",
        "image",
        "pretask.methods.image.ssdl:SSDL",
        "SSDL: Self-Supervised Dictionary Learning (Shao et al., ICME 2021), its details after the authors' "
        "earlier papers",
        "the labels of all pictures but a few, or of all",
        "which class has a picture that is made of such atoms?",
        "sparse_dictionary",
        "dictionary",
        labels=True,
    ),
    Row(
        "power-of-foundation-models",
        "The power of foundation models",
        "any",
        "pretask.studies.theory.foundation:study",
        "On the Power of Foundation Models (Yuan, ICML 2023)",
        "nothing: data are known by their relations to each other",
        "which tasks can a perfect model of these relations solve by a prompt, which with a head, and what "
        "can it create?",
        encoder="none",
        kind="study",
    ),
    Row(
        "point-mae",
        "Point-MAE",
        "points",
        "pretask.methods.points.point_mae:PointMAE",
        "Masked Autoencoders for Point Cloud Self-Supervised Learning (Pang et al., ECCV 2022)",
        "most patches of a cloud, but not where they are",
        "which points were in the hidden patches?",
        "point_vit_tiny",
        "patches",
    ),
    Row(
        "maskfeat3d",
        "MaskFeat3D",
        "points",
        "pretask.methods.points.maskfeat3d:MaskFeat3D",
        "3D Feature Prediction for Masked-AutoEncoder-Based Point Cloud Pretraining (Yan et al., ICLR 2024)",
        "most patches of a cloud, but not the places of their points",
        "which way does the surface face at the hidden points, and how curved is it?",
        "point_vit_tiny:groups=128",
        "patches",
    ),
    Row(
        "infoxlm",
        "InfoXLM",
        "text",
        "pretask.methods.text.infoxlm:InfoXLM",
        "InfoXLM: An Information-Theoretic Framework for Cross-Lingual Language Model Pre-Training "
        "(Chi et al., NAACL 2021)",
        "words of a sentence and of its translation",
        "which words are they, and which of many translations belongs to a sentence?",
        TEXT,
    ),
    Row(
        "paretognn",
        "ParetoGNN",
        "graph",
        "pretask.methods.graph.paretognn:ParetoGNN",
        "Multi-task Self-supervised Graph Neural Networks Enable Stronger Task Generalization (Ju et al., ICLR "
        "2023)",
        "features of nodes, edges, all but a part of the graph",
        "which features, which view, whose summary, which edge? five questions, none against the others",
        "gcn",
    ),
    Row(
        "visual-jigsaw",
        "Visual Jigsaw",
        "image",
        "pretask.methods.image.visual_jigsaw:VisualJigsaw",
        "Visual Jigsaw Post-Training Improves MLLMs (Wu et al., 2025)",
        "where the tiles of a picture belong",
        "in which order do the numbered tiles make the picture? (the policy writes the list)",
    ),
    Row(
        "ppt",
        "PPT",
        "track",
        "pretask.methods.track.ppt:PPT",
        "Progressive Pretext Task Learning for Human Trajectory Prediction (Lin et al., ECCV 2024)",
        "the next point of a track, then its end, then all between",
        "where does it go next, where does it end, and which way?",
        "gpt",
    ),
    Row(
        "s-key",
        "S-KEY",
        "audio",
        "pretask.methods.audio.s_key:SKey",
        "S-KEY: Self-supervised Learning of Major and Minor Keys from Audio (Kong et al., ICASSP 2025), on STONE "
        "(Kong et al., ISMIR 2024)",
        "by how many semitones music was transposed",
        "which key signature, on the circle of fifths, and is it major or minor?",
        "chromanet",
    ),
    Row(
        "voco",
        "VoCo",
        "volume",
        "pretask.methods.volume.voco:VoCo",
        "VoCo: A Simple-yet-Effective Volume Contrastive Learning Framework for 3D Medical Image Analysis (Wu "
        "et al., CVPR 2024)",
        "where in a scan a crop was cut from",
        "how much of the crop lies in each of the boxes that tile the scan?",
        "resnet",
    ),
    Row(
        "valor",
        "VALOR",
        "film",
        "pretask.methods.multimodal.valor:Valor",
        "VALOR: Vision-Audio-Language Omni-Perception Pretraining Model and Dataset (Liu et al., TPAMI 2024)",
        "which caption belongs to a film with sound, and most of its words",
        "which caption tells of what is seen, heard, or both, and which words are hidden?",
        "valor",
    ),
    Row(
        "mamp",
        "MAMP",
        "pose",
        "pretask.methods.pose.mamp:MAMP",
        "Masked Motion Predictors are Strong 3D Action Representation Learners (Mao et al., ICCV 2023)",
        "most joints most of the time, above all when they move",
        "how do the hidden joints move from frame to frame?",
        "skeleton_vit",
    ),
    Row(
        "cpnet",
        "CPNet",
        "video",
        "pretask.methods.video.cpnet:CPNet",
        "Self-supervised Spatiotemporal Representation Learning by Exploiting Video Continuity (Liang et al., "
        "AAAI 2022)",
        "a portion from the midst of a clip, whose ends are joined",
        "is the clip whole, where does it break, and what belongs there?",
        "r3d_18:layers=[1,1,1,1],width=32",
    ),
    Row(
        "tvts",
        "TVTS",
        "multimodal",
        "pretask.methods.multimodal.tvts:TVTS",
        "Learning Transferable Spatiotemporal Representations from Natural Script Knowledge (Zeng et al., CVPR "
        "2023)",
        "the order of what was said, and most of the video",
        "which text tells of which part of the video, and which texts belong to it at all?",
        VIDEO_TEXT,
    ),
)

BY_SLUG = {row.slug: row for row in ROWS}
TASKS = tuple(row for row in ROWS if row.kind == "task")


def find(slug: str, kind: Literal["task", "study", "any"] = "task") -> Row:
    """The row of a slug.

    Raises:
        UsageError: no such method (the message names the nearest), or it is of the other kind.
    """
    row = BY_SLUG.get(slug)
    if row is None:
        near = get_close_matches(slug, BY_SLUG, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "`pretask list` shows all methods"
        raise UsageError(f"there is no method '{slug}': {hint}")
    if kind == "task" and row.kind == "study":
        raise UsageError(f"{slug} is a study, there is nothing to train: run `pretask study {slug}`")
    if kind == "study" and row.kind == "task":
        raise UsageError(f"{slug} is a pretext task, no study: run `pretask train {slug}`")
    return row


def markdown() -> str:
    """The methods as a table for the README."""
    lines = ["| method | learns from | hides | asks |", "| --- | --- | --- | --- |"]
    for row in ROWS:
        link = f"[`{row.slug}`](src/{file_of(row)})"
        lines.append(f"| {link} {row.paper} | {row.modality} | {row.hides} | {row.asks} |")
    return "\n".join(lines)


def file_of(row: Row) -> str:
    """The method's file below `src`."""
    return row.path.partition(":")[0].replace(".", "/") + ".py"


def write_table(path: Path) -> None:
    """Put the table between the two comments of a page."""
    start, end = "<!-- methods -->", "<!-- /methods -->"
    before, _, rest = path.read_text(encoding="utf-8").partition(start)
    path.write_text(f"{before}{start}\n{markdown()}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


if __name__ == "__main__":
    write_table(Path("README.md"))
