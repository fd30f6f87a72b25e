import { assert, describe, it } from "@effect/vitest"
import { CanonicalKey, DifferenceGuard } from "@llm-resilience/core"
import { Arbitrary, Schema } from "effect"

const { compare } = DifferenceGuard

const passing: ReadonlyArray<readonly [string, string]> = [
  ["In Kotlin, how do I read a file?", "How can I read a file in Kotlin?"],
  ["What's the way to fold a fitted sheet?", "How do I fold a fitted sheet?"],
  ["What is a way of sorting lists in Ruby?", "How to sort lists in Ruby"],
  ["Explain how magnets work.", "How do magnets work?"],
  ["Is it dangerous to swallow gum?", "Is gum dangerous to swallow?"],
  ["Which river is the longest in Asia?", "What is the longest river in Asia?"],
  ["Who is the author of Middlemarch?", "Who wrote Middlemarch?"],
  ["Summarize the plot of Macbeth.", "Give me a summary of Macbeth's plot."],
  ["What is the reason that leaves fall?", "Why do leaves fall?"],
  ["Does the ticket include breakfast?", "Is breakfast included in the ticket?"],
  ["Name seven uses of vinegar.", "List 7 uses of vinegar."],
  ["What are the benefits of daily stretching?", "What are the advantages of daily stretching?"],
  ["Give me a comparison between Kafka and RabbitMQ.", "Compare Kafka and RabbitMQ"]
]

const refused: ReadonlyArray<readonly [string, string, DifferenceGuard.Reason]> = [
  ["What is thyme?", "What is in thyme?", "Word"],
  ["How do I learn cooking?", "How do I learn to like cooking?", "Word"],
  ["How is Apollo?", "What did Apollo?", "Question"],
  ["Where is Niger?", "Where is Nigeria?", "Name"],
  ["How does the king get his money?", "How does a king get his money?", "Order"],
  ["Is the road to Rome closed?", "Is the road from Rome closed?", "Opposite"],
  ["Should I take iron with milk?", "Can I take iron with milk?", "Modality"],
  ["Should I eat before a run?", "Should I not eat before a run?", "Negation"],
  ["Did Norway invade Denmark?", "Did Denmark invade Norway?", "Order"],
  ["How many cups are in a pint?", "How many pints are in a cup?", "Order"],
  ["How do I mute the speaker?", "How do I mute all speakers?", "Word"],
  ["Explain RAM to me.", "Explain ram to me.", "Acronym"],
  ["What is 12 °C in kelvin?", "What is 21 °C in kelvin?", "Number"],
  ["Is the museum open in May?", "Is the museum open in June?", "Date"],
  ["How heavy is it in pounds?", "How heavy is it in kilograms?", "Unit"],
  ["Translate to Greek: I won.", "Translate to Greek: I lost.", "Verbatim"],
  ["What does `xs.pop()` do?", "What does `xs.push()` do?", "Verbatim"],
  ["Why is the sea salty?", "Warum ist das Meer salzig?", "Language"],
  ["Wo ist mein Paket?", "Wo ist mein Konto?", "Word"],
  ["Explain the fourth one.", "Explain the fifth one.", "Number"],
  ["List three films. Only old ones.", "List three films.", "Question"]
]

describe("DifferenceGuard.compare", () => {
  it.each(passing)("explains the difference between %j and %j", (left, right) => {
    assert.isUndefined(compare(left, right))
    assert.isUndefined(compare(right, left))
  })

  it.each(refused)("refuses %j for %j: %s", (left, right, reason) => {
    assert.strictEqual(compare(left, right)?.reason, reason)
    assert.strictEqual(compare(right, left)?.reason, reason)
  })

  it("tells what only one of the texts says", () => {
    assert.deepStrictEqual(compare("Who is taller, Ada or Bob?", "Who is taller, Ada or Eve?"), {
      reason: "Name",
      left: ["bob"],
      right: ["eve"]
    })
  })

  it("compares no text that is longer than it reads", () => {
    const long = "What is that? ".repeat(1000)

    assert.strictEqual(compare(long, long)?.reason, "Length")
  })

  it.prop(
    "passes equal texts, and is symmetric for others",
    { left: Arbitrary.schema(Schema.String), right: Arbitrary.schema(Schema.String) },
    ({ left, right }) => {
      assert.isUndefined(compare(left, left))
      assert.strictEqual(compare(left, right)?.reason, compare(right, left)?.reason)
    }
  )

  const words = Schema.Literals(
    "what how why is are does the a in of to and with cat tree city engine fast cold build paint move after before house".split(
      " "
    )
  )
  const names = Schema.Literals(["Berlin", "Anna", "Oslo", "Tesla", "Kafka", "Python", "Maria", "Iran", "Iraq", "Java"])
  const between = (minimum: number, maximum: number) =>
    Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum, maximum })))
  const Question = Arbitrary.all({
    opening: Arbitrary.schema(
      Schema.Literals([
        "How do I",
        "What is",
        "Why does",
        "Explain",
        "Give me 3 reasons why",
        "Is it safe to",
        "Which",
        "Write a story about",
        "In Python, how can I"
      ])
    ),
    before: Arbitrary.array(Arbitrary.schema(words), { minLength: 1, maxLength: 6 }),
    between: Arbitrary.array(Arbitrary.schema(words), { minLength: 1, maxLength: 4 }),
    after: Arbitrary.array(Arbitrary.schema(words), { minLength: 1, maxLength: 6 }),
    one: Arbitrary.schema(names),
    other: Arbitrary.schema(names),
    number: between(0, 99_999)
  })
  const never = (left: string, right: string) => {
    assert.isDefined(compare(left, right), `${left} | ${right}`)
    assert.notStrictEqual(CanonicalKey.of(left), CanonicalKey.of(right))
  }

  it.prop(
    "never passes a changed digit",
    { q: Question, at: between(0, 4), digit: between(1, 9) },
    ({ at, digit, q }) => {
      const digits = String(q.number)
      const place = at % digits.length
      const changed = `${digits.slice(0, place)}${(Number(digits[place]) + digit) % 10}${digits.slice(place + 1)}`
      const ask = (number: string) => [q.opening, ...q.before, number, ...q.after].join(" ")
      never(ask(digits), ask(changed))
    }
  )

  it.prop("never passes two names that changed places", { q: Question }, ({ q }) => {
    if (q.one === q.other) return
    const ask = (one: string, other: string) => [q.opening, ...q.before, one, ...q.between, other, ...q.after].join(" ")
    never(ask(q.one, q.other), ask(q.other, q.one))
  })

  it.prop(
    "never passes a negation",
    { q: Question, at: between(0, 12), no: Arbitrary.schema(Schema.Literals(["not", "never", "no", "without"])) },
    ({ at, no, q }) => {
      const said = [...q.before, q.one, ...q.after]
      const place = at % (said.length + 1)
      never([q.opening, ...said].join(" "), [q.opening, ...said.slice(0, place), no, ...said.slice(place)].join(" "))
    }
  )

  it.prop(
    "passes politeness",
    { q: Question, lead: Arbitrary.schema(Schema.Literals(["Hello, ", "Hi! ", "Please ", "Good morning, "])) },
    ({ lead, q }) => {
      const ask = [q.opening, ...q.before, q.one, ...q.after].join(" ")
      assert.isUndefined(compare(ask, `${lead}${ask}? Thanks!`))
      assert.strictEqual(CanonicalKey.of(ask), CanonicalKey.of(`${lead}${ask}? Thanks!`))
    }
  )
})
