//! Splits a text into words, and classifies them for patterns. Letters of other scripts, and digits within words, are replaced by the
//! Latin letters that they look like.

/// The classes of a word, as a bit set.
pub(super) type Classes = u32;

pub(super) const DROP: Classes = 1;
pub(super) const EARLIER: Classes = 1 << 1;
pub(super) const INSTRUCTIONS: Classes = 1 << 2;
pub(super) const OWNER: Classes = 1 << 3;
pub(super) const SHOW: Classes = 1 << 4;
pub(super) const HIDDEN: Classes = 1 << 5;
pub(super) const PROMPT: Classes = 1 << 6;
pub(super) const LIMITLESS: Classes = 1 << 7;
pub(super) const MODE: Classes = 1 << 8;
pub(super) const MODEL: Classes = 1 << 9;
pub(super) const SWITCH_OFF: Classes = 1 << 10;
pub(super) const SAFETY: Classes = 1 << 11;
pub(super) const APPROVAL: Classes = 1 << 12;
pub(super) const SEND: Classes = 1 << 13;
pub(super) const SECRET: Classes = 1 << 14;
pub(super) const ALL: Classes = 1 << 15;
pub(super) const DELETE: Classes = 1 << 16;
pub(super) const DATA: Classes = 1 << 17;
pub(super) const ENCODED: Classes = 1 << 18;
pub(super) const DO: Classes = 1 << 19;
pub(super) const YOUR: Classes = 1 << 20;
pub(super) const RULES: Classes = 1 << 21;

/// The length from which a run of single letters is taken as a word that is spelled out.
const SPELLED: usize = 6;

/// The words of a text, in lower-case Latin letters, without apostrophes.
pub(super) struct Words {
    text: String,
    all: Vec<Word>,
    /// Words that are spelled letter by letter, joined.
    pub(super) spelled: Vec<String>,
}

struct Word {
    from: usize,
    to: usize,
    classes: Classes,
}

impl Words {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// The word at an index; empty after the last one.
    pub(super) fn get(&self, at: usize) -> &str {
        let word = self.all.get(at);
        word.map_or("", |word| &self.text[word.from..word.to])
    }

    pub(super) fn is(&self, at: usize, class: Classes) -> bool {
        self.all
            .get(at)
            .is_some_and(|word| word.classes & class != 0)
    }

    /// The index of the first word of a class among the `count` words from index `at` on.
    pub(super) fn find(&self, at: usize, count: usize, class: Classes) -> Option<usize> {
        (at..at.saturating_add(count).min(self.len())).find(|at| self.is(*at, class))
    }

    /// Whether the text has these words from index `at` on.
    pub(super) fn follow(&self, at: usize, words: &[&str]) -> bool {
        words
            .iter()
            .enumerate()
            .all(|(n, word)| self.get(at + n) == *word)
    }
}

pub(super) fn of(text: &str) -> Words {
    let mut words = Words {
        text: String::with_capacity(text.len()),
        all: Vec::new(),
        spelled: Vec::new(),
    };
    let mut characters = text.chars().peekable();
    let mut letters = String::new();
    let mut word = String::new();
    while let Some(c) = characters.next() {
        let inner =
            c == '\'' && !word.is_empty() && characters.peek().is_some_and(|c| c.is_alphanumeric());
        if c.is_alphanumeric() || matches!(c, '@' | '$') {
            word.extend(latin(c).to_lowercase());
        } else if !inner {
            add(&mut words, &mut word, &mut letters);
        }
    }
    add(&mut words, &mut word, &mut letters);
    finish(&mut words, &mut letters);
    words
}

fn add(words: &mut Words, word: &mut String, letters: &mut String) {
    if word.is_empty() {
        return;
    }
    let read = unmasked(word);
    if read.chars().count() == 1 {
        letters.push_str(&read);
    } else {
        finish(words, letters);
    }
    let from = words.text.len();
    words.text.push_str(&read);
    let (to, classes) = (words.text.len(), classes(&read));
    words.all.push(Word { from, to, classes });
    word.clear();
}

fn finish(words: &mut Words, letters: &mut String) {
    if letters.chars().count() >= SPELLED {
        words.spelled.push(std::mem::take(letters));
    }
    letters.clear();
}

/// Replaces digits and signs within a word by the letters that they look like.
fn unmasked(word: &str) -> String {
    let letters = word.chars().filter(|c| c.is_alphabetic()).count();
    if letters < 2 || letters == word.chars().count() {
        return word.to_owned();
    }
    let letter = |c| match c {
        '0' => 'o',
        '1' => 'i',
        '3' => 'e',
        '4' | '@' => 'a',
        '5' | '$' => 's',
        '7' => 't',
        other => other,
    };
    word.chars().map(letter).collect()
}

/// Replaces a letter of another script by the Latin letter that it looks like.
fn latin(c: char) -> char {
    match c {
        'а' | 'А' | 'α' | 'Α' | 'ɑ' => 'a',
        'В' | 'Β' => 'b',
        'с' | 'С' | 'ϲ' => 'c',
        'ԁ' => 'd',
        'е' | 'Е' | 'Ε' | 'ε' => 'e',
        'ɡ' => 'g',
        'һ' | 'Н' | 'Η' => 'h',
        'і' | 'І' | 'ι' | 'Ι' | 'ı' => 'i',
        'ј' | 'Ј' => 'j',
        'к' | 'К' | 'κ' | 'Κ' => 'k',
        'М' | 'Μ' => 'm',
        'о' | 'О' | 'ο' | 'Ο' => 'o',
        'р' | 'Р' | 'ρ' | 'Ρ' => 'p',
        'ѕ' | 'Ѕ' => 's',
        'Т' | 'Τ' | 'τ' => 't',
        'υ' | 'ս' => 'u',
        'ν' => 'v',
        'х' | 'Х' | 'χ' | 'Χ' => 'x',
        'у' | 'У' | 'Υ' => 'y',
        other => other,
    }
}

#[rustfmt::skip]
fn classes(word: &str) -> Classes {
    match word {
        "ignores" | "ignoring" | "disregard" | "disregarding" | "forget" | "overrule" | "overwrite" | "discard" | "neglect" | "unlearn"
        | "ignoriere" | "ignorieren" | "ignorier" | "vergiss" | "vergesse" | "missachte" | "ignora" | "ignoren" | "olvida" | "olvide" | "omite"
        | "ignorez" | "oublie" | "oubliez" | "dimentica" | "esqueça" | "esquece" | "negeer" => DROP,
        "ignore" | "override" | "bypass" | "circumvent" => DROP | SWITCH_OFF,
        "skip" | "disable" | "deactivate" | "evade" | "remove" | "off" | "without" | "avoid" => SWITCH_OFF,
        "previous" | "prior" | "above" | "earlier" | "preceding" | "foregoing" | "past" | "vorherigen" | "vorigen" | "bisherigen"
        | "obigen" | "anteriores" | "previas" | "précédentes" | "precedenti" | "original" | "initial" | "existing" => EARLIER,
        "all" | "any" | "every" | "everything" | "entire" | "alle" | "todas" | "toutes" | "tutte" | "whole" => EARLIER | ALL,
        "your" | "deine" | "deinen" | "tus" | "tes" | "vos" => EARLIER | YOUR,
        "system" => EARLIER | HIDDEN | ALL,
        "systems" | "server" | "environment" => ALL,
        "hidden" | "secret" | "developer" | "internal" | "confidential" | "underlying" | "preprompt" => HIDDEN,
        "instruction" | "instructions" | "guidelines" | "directives" | "directive" | "programming" | "anweisungen" | "anweisung" | "vorgaben"
        | "instrucciones" | "consignes" | "istruzioni" | "instruções" | "instructies" => INSTRUCTIONS,
        "prompt" | "prompts" | "systemprompt" => INSTRUCTIONS | PROMPT,
        "rules" | "constraints" | "restrictions" | "regeln" | "reglas" | "règles" | "regole" | "regras" | "limitations" => RULES,
        "my" | "our" | "his" | "her" | "their" | "customer" | "customers" | "client" | "supplier" | "vendor" | "delivery" | "shipping"
        | "assembly" | "packing" | "meine" | "unsere" => OWNER,
        "reveal" | "repeat" | "output" | "display" | "disclose" | "expose" | "recite" | "tell" | "zeige" | "verrate" | "muestra" | "revela"
        | "affiche" | "révèle" => SHOW,
        "show" | "print" | "dump" | "list" | "give" | "share" | "write" => SHOW | SEND,
        "send" | "post" | "forward" | "upload" | "email" | "mail" | "leak" | "exfiltrate" | "transmit" | "copy" | "export" => SEND,
        "dan" | "unrestricted" | "unfiltered" | "uncensored" | "jailbroken" | "amoral" | "omnipotent" | "superuser" | "uneingeschränkt" => LIMITLESS,
        "jailbreak" => LIMITLESS | MODE,
        "god" | "sudo" | "debug" => MODE,
        "ai" | "llm" | "model" | "assistant" | "chatbot" | "chatgpt" | "gpt" | "claude" | "gemini" | "llama" | "ki" | "ia" => MODEL,
        "safety" | "guardrail" | "guardrails" | "guardian" | "safeguard" | "safeguards" | "moderation" | "censorship" | "ethics"
        | "ethical" => SAFETY,
        "approval" | "approvals" | "confirmation" | "authorization" | "genehmigung" => APPROVAL,
        "password" | "passwords" | "credentials" | "secrets" | "apikey" | "apikeys" | "passwort" | "passwörter" => SECRET,
        "drop" | "delete" | "truncate" | "wipe" | "erase" | "destroy" | "lösche" => DELETE,
        "table" | "tables" | "database" | "databases" | "records" | "users" | "data" | "backups" | "daten" | "files" => DATA,
        // `base64` and `rot13`, as they are read.
        "base6a" | "rotie" | "decode" | "decoded" | "decrypt" | "hex" | "morse" | "dekodiere" => ENCODED,
        "follow" | "execute" | "obey" | "comply" | "befolge" => DO,
        _ => 0,
    }
}
