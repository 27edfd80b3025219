r"""A response that should end in a mathematical answer: text in, verdict out.

    response --extract--> answer --tidy--> the same text as the reference's? --> SCORED 1
                                       --> both plain numbers?               --> SCORED by exact arithmetic
                                       --> worker process (`equivalence`):
                reading    text -> form: value with unit, list, set, point, interval, matrix, equation, choice, words
                grammar    text of one expression -> tree, a small language that executes nothing
                agreement  two trees -> equal? exact, or to 40 digits, at random points where there are symbols
                worked     is it a number, or a calculation left to the reader?
                library    a reference outside the language: math-verify and sympy

The worker can be killed, and its work is bounded before it is done: half of hostile expressions hold a core for ever.
"""
