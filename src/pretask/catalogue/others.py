"""Methods that learn from other kinds of data, and studies."""

from pretask.catalogue.row import Row

TEXT = "xlm-roberta:num_hidden_layers=4,hidden_size=256,num_attention_heads=4,intermediate_size=1024"
VIDEO_TEXT = (
    "video=space_time_vit:embed_dim=192,depth=6,num_heads=3;"
    "text=distilbert:dim=192,n_layers=3,n_heads=3,hidden_dim=768"
)
PICTURE_TEXT = "image=resnet18;text=distilbert:dim=192,n_layers=3,n_heads=3,hidden_dim=768"

ROWS = (
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
        "predict-what-you-know",
        "Predicting what you already know",
        "any",
        "pretask.studies.theory.what_you_know:study",
        "Predicting What You Already Know Helps: Provable Self-Supervised Learning (Lee et al., NeurIPS 2021)",
        "a part X2 of the data, predicted from the rest X1 by regression",
        "how many labels does a linear head on the prediction need, if X1 and X2 are independent given the label, "
        "or nearly so?",
        encoder="none",
        kind="study",
    ),
    Row(
        "boosted-by-downstream",
        "Boosted by downstream data",
        "any",
        "pretask.studies.theory.boosted:study",
        "Can Pretext-Based Self-Supervised Learning Be Boosted by Downstream Data? A Theoretical Analysis (Teng "
        "and Huang, 2021)",
        "a part X2 of the data, refined by labels until it is independent of the rest X1 given the label",
        "how many labels must a refinement have to help, and when does it hurt?",
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
        "hiera-video",
        "Hiera of videos",
        "video",
        "pretask.methods.video.hiera:HieraVideo",
        "Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles (Ryali et al., ICML 2023)",
        "nine tenths of a clip in units of 2 frames and 32 pixels, before the first layer",
        "which pixels were in the first frames of the hidden units?",
        "hiera_tiny:q_pool=2",
        "hiera",
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
    Row(
        "geo-ssl",
        "Geo-SSL",
        "place",
        "pretask.methods.image.geo_ssl:GeoSSL",
        "Geography-Aware Self-Supervised Learning (Ayush et al., ICCV 2021), on MoCo v2 (Chen et al., 2020)",
        "what a place looks like at another time, and where it lies",
        "which of a long queue of pictures shows the same place, and in which cluster of coordinates does it lie?",
    ),
    Row(
        "clip",
        "CLIP",
        "captioned",
        "pretask.methods.multimodal.clip:CLIP",
        "Learning Transferable Visual Models From Natural Language Supervision (Radford et al., ICML 2021)",
        "which caption belongs to which picture",
        "which of the batch's captions tells of the picture, and which picture does a caption tell of?",
        PICTURE_TEXT,
    ),
    Row(
        "clip-imbalance",
        "CLIP beyond the tail",
        "captioned",
        "pretask.methods.multimodal.clip_imbalance:ClipImbalance",
        "Generalization Beyond Data Imbalance: A Controlled Study on CLIP for Transferable Insights (Wen et al., "
        "NeurIPS 2024)",
        "the class of a picture, and all classes but the batch's and a few others",
        "which of these few classes is it?",
        PICTURE_TEXT,
        labels=True,
    ),
)
