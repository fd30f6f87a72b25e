import { assert, describe, it } from "@effect/vitest"
import { Loop } from "@llm-resilience/core"
import { Arbitrary, Schema } from "effect"

const lines = (count: number, line: (index: number) => string) =>
  Array.from({ length: count }, (_, i) => line(i)).join("\n")

const verse = (voice: string, sound: string) =>
  `And on his farm he had a ${voice}, E-I-E-I-O.\nWith a ${sound}-${sound} here and a ${sound}-${sound} there,\nHere a ${sound}, there a ${sound}, everywhere a ${sound}-${sound}.\nOld MacDonald had a farm, E-I-E-I-O.`

// What people ask for and models write: long enough, and repetitive enough, to be taken for a loop by a careless detector.
const legitimate: { readonly [name: string]: string } = {
  "a Markdown table of numbers": `| item | price | stock |\n| --- | ---: | ---: |\n${lines(200, (i) => `| part ${i} | 0.00 | 0 |`)}`,
  "a wide table with an empty body": `| ${"column | ".repeat(20)}\n|${" --- |".repeat(20)}\n${lines(12, () => `|${" |".repeat(20)}`)}`,
  "a matrix of zeros": `[\n${lines(28, () => `  [${Array.from({ length: 28 }, () => "0").join(", ")}],`)}\n]`,
  "JSON rows that are equal": `[${lines(100, () => `  { "value": 0, "unit": "°C", "ok": true },`)}]`,
  "a page of twelve equal cards": `<main>${`
  <article class="card">
    <img src="/placeholder.png" alt="" />
    <h3>Product name</h3>
    <p>Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore.</p>
    <button type="button">Add to basket</button>
  </article>`.repeat(12)}\n</main>`,
  "a page of twelve large cards": `<main>${`
  <article class="card card-large shadow">
    <img src="/placeholder.png" alt="" width="640" height="480" loading="lazy" decoding="async" />
    <h3 class="card-title">Product name</h3>
    <p class="card-text">Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt.</p>
    <p class="card-price"><span class="currency">€</span><span class="amount">0.00</span></p>
    <button type="button" class="button button-primary" aria-label="Add to basket">Add to basket</button>
  </article>`.repeat(12)}\n</main>`,
  "a numbered list of the same word": lines(400, (i) => `${i + 1}. to do`),
  "multiplication tables": lines(300, (i) => `${i} × 7 = ${i * 7}`),
  "a worksheet of blank lines": lines(30, () => "_".repeat(80)),
  "dotted leaders": lines(40, (i) => `Chapter ${i} ${".".repeat(60)} ${i * 10}`),
  "a log with timestamps": lines(
    150,
    (i) => `2026-11-22T10:${String(i % 60).padStart(2, "0")}:00Z INFO worker ${i} ready`
  ),
  "base64 of two kilobytes of zeros": "A".repeat(2732),
  "an empty game board": lines(20, () => ". ".repeat(20)),
  "code with the same test again and again": lines(
    40,
    (i) => `  it("handles case ${i}", () => {\n    assert.strictEqual(parse(input[${i}]), expected[${i}])\n  })\n`
  ),
  "a song with a refrain": [
    "cow/moo",
    "pig/oink",
    "duck/quack",
    "horse/neigh",
    "lamb/baa",
    "hen/cluck",
    "dog/woof",
    "cat/meow"
  ]
    .map((animal) => verse(animal.split("/")[0] ?? "", animal.split("/")[1] ?? ""))
    .join("\n\n"),
  "a counting song": lines(
    99,
    (i) => `${99 - i} bottles of beer on the wall, ${99 - i} bottles of beer. Take one down, pass it around.`
  ),
  "a short chorus, eight times": "Na na na na, na na na na, hey hey, goodbye\n".repeat(8),
  "a German litany": lines(
    60,
    (i) =>
      `Heilige${i % 2 === 0 ? "r" : ""} ${["Maria", "Josef", "Anna", "Petrus", "Paulus", "Barbara", "Georg"][i % 7] ?? ""} ${i}, bitte für uns.`
  ),
  "a Japanese list": lines(120, (i) => `${i + 1}番目の項目:まだ未定です。`),
  "a Chinese table": lines(100, (i) => `| 第${i}行 | 无 | 无 | 无 |`)
}

// What models do when they are stuck.
const stuck: { readonly [name: string]: string } = {
  "a word": "very ".repeat(2000),
  "a sentence": `Let me think about this. ${"I should check the value again. ".repeat(300)}`,
  "a line of a list": `Here are the steps:\n${"- Check the configuration file\n".repeat(300)}`,
  "a paragraph":
    `${"To summarise, the main point is that the system works as intended, and that it will continue to work as intended as long as nobody changes the way in which it was set up in the first place. ".repeat(3)}\n\n`.repeat(
      15
    ),
  "two lines in turn": "User: Hello\nAssistant: Hello, how can I help you today?\n".repeat(200),
  "empty lines": `{"name":"x",${"\n".repeat(6000)}`,
  "a sign": `So!${"!".repeat(6000)}`,
  "a syllable": "ha".repeat(4000),
  "a line of code": "    result = result + 1;\n".repeat(400),
  German: "Das ist eine gute Frage, und ich werde sie beantworten. ".repeat(100),
  Japanese: "申し訳ありませんが、もう一度お試しください。".repeat(200),
  Arabic: "سوف أحاول مرة أخرى. ".repeat(200),
  emoji: "😂".repeat(3000)
}

const between = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

// Runs of a few signs resemble each other in all their parts, and a string has anything in it.
const Run = Schema.Struct({ sign: Schema.Literals(["a", "b", " ", "\n", "é", "|"]), times: between(1, 60) })
const Unit = Arbitrary.map(
  Arbitrary.all({
    runs: Arbitrary.array(Arbitrary.schema(Run), { minLength: 1, maxLength: 8 }),
    text: Arbitrary.schema(Schema.String)
  }),
  ({ runs, text }) => (runs.map(({ sign, times }) => sign.repeat(times)).join("") + text).slice(0, 700)
)

const words =
  "the a model of answers and it was in to question when never river light because between with small old said they house der die und nicht ein für le la et les que une pour".split(
    " "
  )
const Sentence = Arbitrary.map(
  Arbitrary.array(Arbitrary.schema(Schema.Literals(words)), { minLength: 3, maxLength: 18 }),
  (chosen) => `${chosen.join(" ")}. `
)
const Prose = Arbitrary.map(Arbitrary.array(Sentence, { minLength: 120, maxLength: 200 }), (sentences) =>
  sentences.join("")
)

describe("Loop", () => {
  for (const [name, text] of Object.entries(legitimate)) {
    it(`takes ${name} for what it is`, () => {
      assert.isUndefined(Loop.find(text))
    })
  }

  for (const [name, text] of Object.entries(stuck)) {
    it(`finds ${name} without end`, () => {
      assert.isDefined(Loop.find(text))
    })
  }

  it("tells the unit and how much of it there is", () => {
    assert.deepStrictEqual(Loop.find("I am stuck. ".repeat(1000)), { period: 12, length: 2048 })
    assert.deepStrictEqual(Loop.find("x".repeat(10_000)), { period: 1, length: 4096 })
    assert.deepStrictEqual(Loop.find("もう一度。".repeat(1000)), { period: 5, length: 2048 })
  })

  it("needs both, the length and the repetitions", () => {
    const passage = `${Array.from({ length: 120 }, (_, i) => `word${i}`).join(" ")}. `

    assert.isAbove(passage.length * 5, 2 * 2048)
    assert.isUndefined(Loop.find(passage.repeat(5)))
    assert.isDefined(Loop.find(passage.repeat(8)))
    assert.isUndefined(Loop.find(passage.repeat(2), { isCut: true }))
    assert.isDefined(Loop.find(passage.repeat(3), { isCut: true }))
    assert.isUndefined(Loop.find("again and again ".repeat(100)))
    assert.isDefined(Loop.find("again and again ".repeat(200)))
  })

  it("takes half as much for a loop when the answer was cut off in the middle of it", () => {
    const answer = `Sure. ${"I will do it now. ".repeat(70)}`

    assert.isUndefined(Loop.find(answer))
    assert.isDefined(Loop.find(answer, { isCut: true }))
    assert.isUndefined(Loop.find(`${answer} And that was it.`, { isCut: true }))
    assert.isUndefined(Loop.find(legitimate["a page of twelve equal cards"]?.slice(0, 2000) ?? "", { isCut: true }))
  })

  it("forgets what is further back than its window", () => {
    const chapter = Array.from({ length: 400 }, (_, i) => `word${i}`).join(" ")

    assert.isAbove(chapter.length, 2048)
    assert.isUndefined(Loop.find(`${chapter} `.repeat(40)))
  })

  it("finds a loop that the model left again", () => {
    assert.isDefined(
      Loop.find(`${"I should check again. ".repeat(300)} So the answer is 42, as ${legitimate["a counting song"]}`)
    )
  })

  it.prop(
    "says the same however the text arrives",
    {
      text: Schema.Literals([...Object.values(stuck), ...Object.values(legitimate)]),
      sizes: Arbitrary.array(Arbitrary.schema(between(1, 3000)), { minLength: 1, maxLength: 20 })
    },
    ({ sizes, text }) => {
      const detector = Loop.make()
      let found: Loop.Loop | undefined
      for (let from = 0, i = 0; from < text.length && found === undefined; i++) {
        const size = sizes[i % sizes.length] ?? 1
        found = detector.push(text.slice(from, from + size))
        from += size
      }

      assert.deepStrictEqual(found, Loop.find(text))
    }
  )

  it.prop(
    "finds any text that is repeated often enough",
    { unit: Unit, before: Arbitrary.schema(Schema.String) },
    ({ before, unit }) => {
      const often = Math.max(Math.ceil(4096 / unit.length), 16) + Math.ceil(600 / unit.length)

      assert.isDefined(Loop.find(before + unit.repeat(often)))
    },
    { arbitrary: { runs: 300 } }
  )

  it.prop("never takes prose for a loop", { text: Prose }, ({ text }) => {
    assert.isUndefined(Loop.find(text, { isCut: true }))
  })

  it("refuses limits that make no sense", () => {
    assert.throws(
      () => Loop.make({ prose: { length: 10, repeats: 6 } }),
      /prose.length must be an integer from 64 to 16384, got 10/
    )
    assert.throws(
      () => Loop.make({ other: { length: 4096, repeats: 1 } }),
      /other.repeats must be an integer >= 2, got 1/
    )
  })
})
