"""The words and dates in names that state when an exam was made, apart from patients' names.

Some words count wherever they stand (`baseline`, `ses-01`, a date); weak ones (`scan_2`, `T0`,
`mr1`) only behind a patient's id, because `scan_001` is also what a cohort calls its patients.
"""

import re

_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_MONTH = r"(?:0?[1-9]|1[0-2])"
_YEAR = r"(?:19|20)\d\d"
_DATE = (
    rf"(?:{_YEAR}([-_. ]){_MONTH}\1{_DAY}|{_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
    rf"|{_DAY}([-_. ]){_DAY}\2{_YEAR}|{_YEAR}[-_.]{_MONTH}(?![-_.]?\d))"
)
_TIME = r"(?:[-_.t ]*(?:[01]\d|2[0-3])[-_.h:]?[0-5]\d(?:[-_.:m]?[0-5]\d(?:\.\d+)?)?(?![0-9]))?"
_NUMBER = r"[-_. ]?\d+[a-z]?"
_TREATMENT = r"(?:op|operative|operation|surgery|surgical|surg|treatment|tx|rt|radiation|chemo)"
_STRONG_WORDS = (
    r"(?:ses|sess|session|visit|vis|tp|time[-_ ]?point|time|day|week|wk|month|year|cycle|fraction"
    r"|fx|follow[-_. ]?up|fup|fu|baseline|bl)"
)
_ALONE = (
    rf"(?:(?:pre|post|intra)[-_. ]?{_TREATMENT}?|baseline|bl|follow[-_. ]?up|fup|fu|initial"
    r"|recurrence|recurrent|relapse|progression|prog|early[-_. ]?post[-_. ]?op|discharge|screening)"
)
_SPAN = r"(?:\d{1,4}[-_. ]?(?:mo|mos|months?|wk|wks|weeks?|days?|yr|yrs|years?)|\d{1,3}[mwdy])"
_STRONG = (
    rf"(?:{_DATE}{_TIME}|ses[-_][a-z0-9]+|{_STRONG_WORDS}{_NUMBER}(?:-\d{{1,3}})?|{_ALONE}"
    rf"(?:[-_. ]?\d{{1,2}})?|{_SPAN})"
)
_WEAK = (
    r"(?:(?:mr|mri|scan|study|exam|examination|acq|v|t|w|m|d|fu|tp)[-_. ]?\d{1,2}"
    r"|[vtwmd]\d{1,4})"
)
_BEFORE, _AFTER = r"(?<![a-z0-9])", r"(?![a-z0-9])"
DATE = re.compile(_BEFORE + _DATE + _TIME + _AFTER, re.IGNORECASE)
STRONG = re.compile(_BEFORE + _STRONG + _AFTER, re.IGNORECASE)
ANY = re.compile(rf"{_BEFORE}(?:{_STRONG}|{_WEAK}){_AFTER}", re.IGNORECASE)
GLUED = re.compile(  # P01v2, P01pre
    r"(?<=\d)(?:v|t|tp|fu|visit|ses|scan|mr)\d{1,2}$|(?<=\d)(?:pre|post|preop|postop|bl|fu)$",
    re.IGNORECASE,
)
# P01a beside P01b; 0A1B beside 0A1C are codes.
LETTERED = re.compile(r"[a-z]*[-_. ]?\d+[a-h]", re.IGNORECASE)
# Folders that sort files, and name neither a patient nor a time point.
STORAGE = re.compile(
    r"anat|nifti|niftis|nii|images?|dicoms?|dcm|mri?|raw|data|struct|structural|preprocessed|"
    r"processed|registered|coregistered|skull[-_]?stripped|native|output|results?",
    re.IGNORECASE,
)
# Folders that hold parts of a cohort: one patient may lie in several of them.
PARTS = re.compile(
    r"(?:(?:train|training|tr|val|valid|validation|test|testing|ts|fold|batch|part|split|group"
    r"|images|imagestr|imagests|cohort|dataset|set|release|phase|labelled|unlabelled|labeled"
    r"|unlabeled)[-_ ]?(?:set|data|\d+)?|.*(?:training|validation|test)[-_ ]?(?:data|set))",
    re.IGNORECASE,
)
# Folders that hold patients of one kind or from one place; other folders may use the same numbers.
PLACES = re.compile(
    r"(?:hgg|lgg|hg|lg|gbm|gliomas?|glioblastoma|controls?|healthy|(?:site|cent(?:er|re)|hospital"
    r"|clinic|institution|inst|scanner|hosp)[-_ ]?[a-z0-9]*)",
    re.IGNORECASE,
)
