"""Words that tell where a name ends: those that reports are made of, and those that names are joined by."""

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text))


# Parts of a name where one follows on them, and of a hospital's.
OF_A_NAME = _words("van von der den de del della di da dos la le al el bin ibn ter ten zu mc mac")
OF_A_PLACE = _words("of and the for")
# What stands beside a title or a label and is no name. A name that is one of these words is not found.
NO_NAME = _words(
    """
    a an the this that these those and or of in on at to for from with without by as is are was were be been has have had not no
    none unknown yes see per via into after before during under over above below same other both each all any additional new
    patient patients name age sex gender male female man woman date time day year years history clinical information diagnosis
    diagnoses pre post preoperative postoperative operative operation procedure procedures surgery surgical pathology pathologist
    pathologists pathologic report reports final addendum amended comment comments note notes summary synoptic gross grossly
    description microscopic macroscopic examination frozen section sections slide slides block blocks cassette cassettes specimen
    specimens tissue tissues biopsy biopsies core needle excision resection lobectomy mastectomy nephrectomy colectomy
    hysterectomy prostatectomy margin margins tumor tumour tumors mass nodule lesion lymph node nodes carcinoma adenocarcinoma
    cancer invasive situ metastatic metastasis squamous cell cells ductal lobular grade stage size site type left right upper
    lower middle inner outer lateral medial anterior posterior superior inferior proximal distal breast lung kidney colon rectum
    liver brain bladder prostate ovary uterus cervix pancreas stomach thyroid skin soft bone head neck received fresh formalin
    fixed labeled labelled designated consists consist measuring measures submitted entirely representative part parts total
    number numbers one two three four five six seven eight nine ten first second third positive negative present absent
    identified seen noted consistent compatible features evidence review reviewed read signed electronic electronically
    signature dictated verified hospital clinic center centre department laboratory laboratories university medical health outside
    referring attending surgeon physician physicians doctor resident fellow consultant staff service services room floor phone fax
    tel address accession case mrn id unit account dob collected intraoperative consultation immunostains immunohistochemistry
    stains stain special studies study results result performed interpretation interpreted code codes cpt icd tnm ajcc pt pn pm et
    al white black caucasian asian hispanic american single married widowed north south east west our your his her their its he
    she it they we i you which who whom when where how discussed please also only non normal abnormal benign malignant moderately
    poorly well differentiated including include includes involving involved involvement tan pink gray grey red brown yellow cm mm
    gm grams gram weight weighs med rec page entered requested assistant copy copies uuid criteria location provider visit job
    admit submitting ordering path discrepancy accessioned addenda contact paraffin transcribed collection amendments dr drs prof
    mr mrs ms miss professor mutation mutations detection promoter methylation findings key rights reserved details episode entire
    """
)
# Unless a title or a degree stands beside it: then it is one.
SURNAMES_TOO = _words("white black gray grey brown head stage page day bone core west north case fellow pink read")
