"""Words that say where an answer is, in the languages that models answer in. Data only: one line a language, joined into patterns."""

from __future__ import annotations

import re

# "answer", the words between it and the number, "or", "and", "I do not know / cannot"; alternatives separated by bars.
_TABLE = {
    "en": (
        "answer",
        "is|are",
        "or",
        "and",
        r"(?:do not|don't|dont|does not|did not) know|no idea|not sure|refuse to|no (?:answer|solution)",
    ),
    "de": ("antwort|ergebnis", "ist|lautet|beträgt", "oder|bzw", "und", "weiß (?:ich )?(?:es )?nicht|kann (?:ich )?(?:es |das )?nicht"),
    "fr": ("réponse|résultat", "est", "ou", "et", "ne sais pas|ne peux pas"),
    "es": ("respuesta|resultado", "es", "o|ó|u", "y", "no sé|no lo sé|no puedo"),
    "it": ("risposta|risultato", "è", "o|oppure", "e", "non so|non lo so|non posso"),
    "pt": ("resposta|resultado", "é", "ou", "e", "não sei|não posso"),
    "nl": ("antwoord", "is", "dan wel", "en", "weet (?:ik )?(?:het )?niet|kan (?:ik )?(?:het )?niet"),
    "sv": ("svar(?:et)?", "är|er", "eller", "och|og", "vet inte|ved ikke|vet ikke"),
    "fi": ("vastaus", "on", "tai", "ja", "en tiedä"),
    "pl": ("odpowiedź|wynik", "to|jest|wynosi", "lub|albo", "oraz|i", "nie wiem|nie mogę"),
    "cs": ("odpověď|výsledek", "je", "nebo", "a", "nevím|nemohu"),
    "ru": ("ответ|результат", "это|равен|равно|составляет", "или", "и", "не знаю|не могу"),
    "uk": ("відповідь", "це|дорівнює", "або|чи", "і|та", "не знаю|не можу"),
    "el": ("απάντηση", "είναι", "ή", "και", "δεν ξέρω"),
    "tr": ("cevap|yanıt|sonuç", "olarak", "veya|ya da", "ve", "bilmiyorum"),
    "id": ("jawaban(?:nya)?|hasilnya", "adalah|ialah", "atau", "dan", "tidak tahu|tidak bisa"),
    "vi": ("đáp án|đáp số|câu trả lời", "là", "hoặc|hay", "và", "không biết|không thể"),
    "zh": (
        "答案|答|结果|結果",
        "应该是|應該是|应为|等于|等於|就是|是|为|為",
        "或者|或是|或",
        "以及|和|与|與|及",
        "不知道|无法|無法|不能确定|不確定",
    ),
    "ja": ("答え|解答|正解", "は", "または|もしくは|あるいは|か", "および|と", "わかりません|分かりません|できません"),
    "ko": ("정답|답", "은|는", "또는|혹은|이나|나", "그리고|와|과", "모르겠|알 수 없"),
    "hi": ("उत्तर|जवाब", "है|होगा", "या", "और|तथा", "नहीं पता|नहीं जानता"),
    "ar": ("الجواب|الإجابة|الاجابة|الناتج", "هو|هي", "أو", "و", "لا أعرف|لا أعلم|لا أستطيع"),
    "fa": ("پاسخ|جواب", "است|برابر است با", "یا", "و", "نمی‌دانم|نمیدانم"),
    "he": ("תשובה|התשובה", "היא|הוא", "או", "ו", "לא יודע"),
    "th": ("คำตอบ", "คือ", "หรือ", "และ", "ไม่ทราบ|ไม่รู้"),
    "bn": ("উত্তর", "হল|হলো", "বা|অথবা", "এবং|ও", "জানি না"),
    "sw": ("jibu", "ni", "au", "na", "sijui"),
    "te": ("సమాధానం", "", "లేదా", "మరియు", "తెలియదు"),
}


def _words(column: int, leave_out: tuple[str, ...] = ()) -> str:
    """The alternatives of one column of all languages; scripts that put spaces between words want them whole."""
    words = dict.fromkeys(word for name, row in _TABLE.items() if name not in leave_out for word in row[column].split("|") if word)
    spaced = [w for w in words if re.match(r"[a-zA-Z\u00c0-\u052f(]", w)]
    others = [w for w in words if w not in spaced]
    return "|".join([rf"\b(?:{'|'.join(spaced)})\b", *sorted(others, key=len, reverse=True)])


ANSWER = _words(0, leave_out=("en",))
IS = _words(1)
REFUSAL = _words(4)
# Short words mean other things in other languages (the Dutch "of" is left out for that): they join two numbers only
# where nothing else is between.
_JOINING = [w for column in (2, 3) for row in _TABLE.values() for w in row[column].split("|")]
JOINS_ALONE = "|".join(dict.fromkeys(_JOINING))
JOINS = "|".join(
    rf"\b{w}" if w.isascii() else w for w in dict.fromkeys(_JOINING) if w in ("and", "or", "und") or len(w) > 3 or w > "\u0400"
)
