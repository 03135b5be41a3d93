// Light colouring of code: comments, strings, numbers and the words of a language.
//
// Pure: code in, [kind, text] pairs out, which joined are the code again; kind is null for what has
// no colour. It reads no grammar, and what it does not know stays as it is.

const LONGEST = 60_000; // characters; more is shown plain

const C_LIKE = "break case catch class const continue default delete do else enum export extends "
  + "finally for function if import in instanceof interface let new of return static super switch "
  + "this throw try typeof var void while with yield async await true false null undefined type "
  + "implements private public protected readonly abstract namespace struct int char float double "
  + "long short unsigned signed bool boolean string package func go defer range map chan select "
  + "fn mut impl trait pub use mod match where self crate loop move ref dyn unsafe final val fun "
  + "override when object sizeof template typename using virtual nil nullptr auto";
const WORDS = {
  python: "and as assert async await break case class continue def del elif else except finally "
    + "for from global if import in is lambda match nonlocal not or pass raise return try while "
    + "with yield True False None self",
  shell: "if then else elif fi for while until do done case esac in function return export local "
    + "set unset source exit trap cd echo",
  sql: "select from where and or not insert into values update set delete create table drop alter "
    + "index join left right inner outer on group by order having limit offset as distinct union "
    + "null is in like between primary key references default with case when then else end",
  config: "true false null yes no on off",
  c: C_LIKE,
};
const KINDS = {
  py: "python", python: "python", rb: "python", ruby: "python",
  sh: "shell", bash: "shell", shell: "shell", zsh: "shell", console: "shell",
  sql: "sql", yaml: "config", yml: "config", toml: "config", ini: "config", json: "config",
  js: "c", javascript: "c", jsx: "c", ts: "c", typescript: "c", tsx: "c", mjs: "c", c: "c",
  cpp: "c", "c++": "c", h: "c", cs: "c", csharp: "c", java: "c", go: "c", rust: "c", rs: "c",
  kotlin: "c", swift: "c", php: "c", scala: "c", dart: "c", css: "c",
};
const HASHES = new Set(["python", "shell", "config"]);

const STRING = String.raw`"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'`;
const NUMBER = String.raw`\b(?:0x[\da-f_]+|\d[\d_]*(?:\.\d+)?(?:e[+-]?\d+)?)\b`;
const NAME = String.raw`[A-Za-z_$][\w$]*`;

function patternFor(kind) {
  const comment = HASHES.has(kind)
    ? String.raw`(?<![\w$"'{])#.*`
    : kind === "sql"
      ? String.raw`--.*|/\*[^]*?(?:\*/|$)`
      : String.raw`//.*|/\*[^]*?(?:\*/|$)`;
  const long = kind === "python" ? String.raw`"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|` : "";
  const ticks = kind === "c" ? String.raw`|${"`"}(?:[^${"`"}\\]|\\.)*${"`"}` : "";
  return new RegExp(`(${comment})|(${long}${STRING}${ticks})|(${NUMBER})|(${NAME})`, "gi");
}

const languages = new Map();

function language(name) {
  const kind = KINDS[name.toLowerCase()];
  if (!kind) return null;
  if (!languages.has(kind)) {
    languages.set(kind, { pattern: patternFor(kind), words: new Set(WORDS[kind].split(" ")), kind });
  }
  return languages.get(kind);
}

export function colour(lang, code) {
  const known = language(lang);
  if (!known || code.length > LONGEST) return code ? [[null, code]] : [];
  const out = [];
  let done = 0;
  const take = (kind, from, text) => {
    if (from > done) out.push([null, code.slice(done, from)]);
    out.push([kind, text]);
    done = from + text.length;
  };
  for (const found of code.matchAll(known.pattern)) {
    const [whole, comment, string, number] = found;
    const after = code[found.index + whole.length];
    if (comment !== undefined) take("comment", found.index, whole);
    else if (string !== undefined) {
      const key = known.kind === "config" && after === ":";
      take(key ? "name" : "string", found.index, whole);
    } else if (number !== undefined) take("number", found.index, whole);
    else if (known.words.has(known.kind === "sql" ? whole.toLowerCase() : whole)) {
      take("word", found.index, whole);
    } else if (after === "(" && known.kind !== "config") take("name", found.index, whole);
  }
  if (done < code.length) out.push([null, code.slice(done)]);
  return out;
}
